// One row of each. Included once per instruction set, of whose registers kLanes floats fill one; what does not fill a
// register is copied into one filled up with zeros.

#include "../common/lanes_body.h"

ADAPTINF_ALWAYS Float sigmoid(Float x) {
  const Float one = Float{} + 1.0f;
  Float exponent = x > 0.0f ? -x : x, e;  // NaN stays
  exp_nonpositive<kLanes>(exponent, e);
  return (x > 0.0f ? one : e) / (one + e);
}

ADAPTINF_ALWAYS void swiglu_lanes(const float* gate, const float* up, float* out) {
  const Float x = load(gate);
  store(out, x * sigmoid(x) * load(up));
}

void swiglu_row(const SwiGlu& inputs, const Matrix& out, int64_t row) {
  const float *const gate = inputs.gate.row(row), *const up = inputs.up.row(row);
  int64_t i = 0;
  for (; i + kLanes <= inputs.width; i += kLanes) swiglu_lanes(gate + i, up + i, out.row(row) + i);
  if (const int64_t left = inputs.width - i) {
    float of_gate[kLanes] = {}, of_up[kLanes] = {}, found[kLanes];
    std::copy_n(gate + i, left, of_gate);
    std::copy_n(up + i, left, of_up);
    swiglu_lanes(of_gate, of_up, found);
    std::copy_n(found, left, out.row(row) + i);
  }
}

ADAPTINF_ALWAYS void swiglu_backward_lanes(const float* gate, const float* up, const float* grad, float* gate_gradient,
                                           float* up_gradient) {
  const Float x = load(gate), s = sigmoid(x), g = load(grad);
  store(gate_gradient, g * load(up) * (s * (1.0f + x * (1.0f - s))));
  store(up_gradient, g * (x * s));
}

void swiglu_backward_row(const SwiGlu& inputs, const Matrix& out_gradient, const Matrix& gate_gradient,
                         const Matrix& up_gradient, int64_t row) {
  const float *const gate = inputs.gate.row(row), *const up = inputs.up.row(row), *const grad = out_gradient.row(row);
  int64_t i = 0;
  for (; i + kLanes <= inputs.width; i += kLanes)
    swiglu_backward_lanes(gate + i, up + i, grad + i, gate_gradient.row(row) + i, up_gradient.row(row) + i);
  if (const int64_t left = inputs.width - i) {
    float of_gate[kLanes] = {}, of_up[kLanes] = {}, of_grad[kLanes] = {}, to_gate[kLanes], to_up[kLanes];
    std::copy_n(gate + i, left, of_gate);
    std::copy_n(up + i, left, of_up);
    std::copy_n(grad + i, left, of_grad);
    swiglu_backward_lanes(of_gate, of_up, of_grad, to_gate, to_up);
    std::copy_n(to_gate, left, gate_gradient.row(row) + i);
    std::copy_n(to_up, left, up_gradient.row(row) + i);
  }
}

// sum_i a_i b_i c_i, with c = 1 where it is null.
ADAPTINF_ALWAYS float triple_sum(const float* a, const float* b, const float* c, int64_t count) {
  Float sum{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum += c ? load(a + i) * load(b + i) * load(c + i) : load(a + i) * load(b + i);
  float rest = 0.0f;
  for (; i < count; ++i) rest += c ? a[i] * b[i] * c[i] : a[i] * b[i];
  return sum_of_lanes(sum) + rest;
}

ADAPTINF_ALWAYS float inverse_root(const RmsNorm& inputs, const float* x) {
  return 1.0f / std::sqrt(triple_sum(x, x, nullptr, inputs.width) / static_cast<float>(inputs.width) + inputs.epsilon);
}

void rms_norm_row(const RmsNorm& inputs, const Matrix& out, int64_t row) {
  const float* const x = inputs.x.row(row);
  float* const target = out.row(row);
  const float root = inverse_root(inputs, x);
  for (int64_t i = 0; i < inputs.width; ++i) target[i] = inputs.weight[i] * (x[i] * root);
}

// dx = r w g - x r^3 mean(w g x), with r the inverse root.
void rms_norm_backward_row(const RmsNorm& inputs, const Matrix& out_gradient, const Matrix& x_gradient, int64_t row) {
  const float *const x = inputs.x.row(row), *const grad = out_gradient.row(row), *const weight = inputs.weight;
  float* const target = x_gradient.row(row);
  const float root = inverse_root(inputs, x);
  const float along = root * (triple_sum(x, grad, weight, inputs.width) * root / static_cast<float>(inputs.width));
  for (int64_t i = 0; i < inputs.width; ++i) target[i] = root * (weight[i] * grad[i] - x[i] * along);
}

void rotary_row(const float* __restrict x, const float* __restrict cos, const float* __restrict sin, int64_t half,
                float* __restrict out) {
  for (int64_t i = 0; i < half; ++i) {
    out[i] = x[i] * cos[i] - x[half + i] * sin[i];
    out[half + i] = x[half + i] * cos[half + i] + x[i] * sin[half + i];
  }
}

void rotary_backward_row(const float* __restrict grad, const float* __restrict cos, const float* __restrict sin, int64_t half,
                         float* __restrict out) {
  for (int64_t i = 0; i < half; ++i) {
    out[i] = grad[i] * cos[i] + grad[half + i] * sin[half + i];
    out[half + i] = grad[half + i] * cos[half + i] - grad[i] * sin[i];
  }
}
