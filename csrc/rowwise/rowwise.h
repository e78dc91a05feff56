// What a decoder layer does to every token by itself, between its matrix products: one pass over memory each.
#pragma once

#include <cstdint>

#include "../common/cpu_features.h"

namespace adaptinf::rowwise {

// [rows, width], float32; a row is contiguous.
struct Matrix {
  float* data;
  int64_t stride;

  float* row(int64_t row) const { return data + row * stride; }
};

// out = silu(gate) up, with silu(x) = x / (1 + e^-x).
struct SwiGlu {
  int64_t rows, width;
  Matrix gate, up;
};
void swiglu(const SwiGlu& inputs, const Matrix& out, int threads, CpuLevel level);
void swiglu_backward(const SwiGlu& inputs, const Matrix& out_gradient, const Matrix& gate_gradient, const Matrix& up_gradient,
                     int threads, CpuLevel level);

// out = weight x / sqrt(mean(x^2) + epsilon), row by row.
struct RmsNorm {
  int64_t rows, width;
  Matrix x;
  const float* weight;
  float epsilon;
};
void rms_norm(const RmsNorm& inputs, const Matrix& out, int threads, CpuLevel level);
void rms_norm_backward(const RmsNorm& inputs, const Matrix& out_gradient, const Matrix& x_gradient, int threads,
                       CpuLevel level);

// [batch, heads, tokens, width], float32; columns are contiguous.
struct Heads {
  float* data;
  int64_t of_batch, of_head, of_token;

  float* row(int64_t batch, int64_t head, int64_t token) const {
    return data + batch * of_batch + head * of_head + token * of_token;
  }
};

// [batch, tokens, width], float32, of positions; a stride may be 0.
struct Angles {
  const float* data;
  int64_t of_batch, of_token;

  const float* row(int64_t batch, int64_t token) const { return data + batch * of_batch + token * of_token; }
};

// out = x cos + rotate(x) sin, with rotate((a, b)) = (-b, a) of the halves of a row.
struct Rotary {
  int64_t batch, heads, tokens, width;
  Heads x;
  Angles cos, sin;
};
void rotary(const Rotary& inputs, const Heads& out, int threads, CpuLevel level);
// x is the gradient of the output, out that of the input.
void rotary_backward(const Rotary& inputs, const Heads& out, int threads, CpuLevel level);

}  // namespace adaptinf::rowwise
