#include "rowwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "../common/parallel.h"
#include "../common/vector_math.h"

namespace adaptinf::rowwise {

namespace {

constexpr int64_t kFloats = 1 << 14;  // of a matrix that a task takes

namespace portable {
constexpr int kLanes = 4;
#include "rowwise_body.h"
}  // namespace portable

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int kLanes = 8;
#include "rowwise_body.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
namespace avx512 {
constexpr int kLanes = 16;
#include "rowwise_body.h"
}  // namespace avx512
#pragma GCC pop_options

#define ADAPTINF_CHOSEN(LEVEL, FUNCTION)                         \
  (LEVEL == CpuLevel::avx512 ? avx512::FUNCTION                  \
   : LEVEL == CpuLevel::avx2 ? avx2::FUNCTION : portable::FUNCTION)
#else
#define ADAPTINF_CHOSEN(LEVEL, FUNCTION) ((void)LEVEL, portable::FUNCTION)
#endif

template <class Row>
void for_rows(int64_t rows, int64_t width, int threads, const Row& one) {
  const int64_t at_once = std::max<int64_t>(1, kFloats / std::max<int64_t>(1, width));
  parallel_for((rows + at_once - 1) / at_once, threads, [&](int64_t task) {
    for (int64_t row = task * at_once; row < std::min(rows, (task + 1) * at_once); ++row) one(row);
  });
}

using RotaryRow = void (*)(const float*, const float*, const float*, int64_t, float*);

void for_heads(const Rotary& inputs, const Heads& out, int threads, RotaryRow one) {
  for_rows(inputs.batch * inputs.tokens, inputs.heads * inputs.width, threads, [&](int64_t row) {
    const int64_t batch = row / inputs.tokens, token = row % inputs.tokens;
    const float *const cos = inputs.cos.row(batch, token), *const sin = inputs.sin.row(batch, token);
    for (int64_t head = 0; head < inputs.heads; ++head)
      one(inputs.x.row(batch, head, token), cos, sin, inputs.width / 2, out.row(batch, head, token));
  });
}

}  // namespace

void swiglu(const SwiGlu& inputs, const Matrix& out, int threads, CpuLevel level) {
  auto* const one = ADAPTINF_CHOSEN(level, swiglu_row);
  for_rows(inputs.rows, inputs.width, threads, [&](int64_t row) { one(inputs, out, row); });
}

void swiglu_backward(const SwiGlu& inputs, const Matrix& out_gradient, const Matrix& gate_gradient, const Matrix& up_gradient,
                     int threads, CpuLevel level) {
  auto* const one = ADAPTINF_CHOSEN(level, swiglu_backward_row);
  for_rows(inputs.rows, inputs.width, threads,
           [&](int64_t row) { one(inputs, out_gradient, gate_gradient, up_gradient, row); });
}

void rms_norm(const RmsNorm& inputs, const Matrix& out, int threads, CpuLevel level) {
  auto* const one = ADAPTINF_CHOSEN(level, rms_norm_row);
  for_rows(inputs.rows, inputs.width, threads, [&](int64_t row) { one(inputs, out, row); });
}

void rms_norm_backward(const RmsNorm& inputs, const Matrix& out_gradient, const Matrix& x_gradient, int threads,
                       CpuLevel level) {
  auto* const one = ADAPTINF_CHOSEN(level, rms_norm_backward_row);
  for_rows(inputs.rows, inputs.width, threads, [&](int64_t row) { one(inputs, out_gradient, x_gradient, row); });
}

void rotary(const Rotary& inputs, const Heads& out, int threads, CpuLevel level) {
  for_heads(inputs, out, threads, ADAPTINF_CHOSEN(level, rotary_row));
}

void rotary_backward(const Rotary& inputs, const Heads& out, int threads, CpuLevel level) {
  for_heads(inputs, out, threads, ADAPTINF_CHOSEN(level, rotary_backward_row));
}

}  // namespace adaptinf::rowwise
