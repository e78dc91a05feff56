// Python's view of this folder. Matrices: float32 [rows, width]; heads: [batch, heads, tokens, width].
#include "../binding.h"
#include "rowwise.h"

namespace adaptinf {
namespace {

using rowwise::Angles;
using rowwise::Heads;
using rowwise::Matrix;
using rowwise::RmsNorm;
using rowwise::Rotary;
using rowwise::SwiGlu;

TensorView checked(const char* name, const Arguments& arguments, size_t dimensions, Access access) {
  const TensorView view = checked_view(name, arguments, {DType::float32}, dimensions, access);
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be in the memory of the CPU");
  return view;
}

Matrix matrix(const char* name, const Arguments& arguments, int64_t rows, int64_t width, Access access) {
  const TensorView view = checked(name, arguments, 2, access);
  if (view.shape[0] != rows || view.shape[1] != width)
    fail(std::string(name) + ": must be [" + std::to_string(rows) + ", " + std::to_string(width) + "]");
  return {static_cast<float*>(view.data), view.strides[0]};
}

int checked_threads(int threads) {
  if (threads < 1) fail("threads: must be at least 1");
  return threads;
}

SwiGlu gated(const Arguments& gate, const Arguments& up) {
  const TensorView view = checked("gate", gate, 2, Access::read);
  const int64_t rows = view.shape[0], width = view.shape[1];
  return {rows, width, {static_cast<float*>(view.data), view.strides[0]}, matrix("up", up, rows, width, Access::read)};
}

void swiglu(const Arguments& gate, const Arguments& up, const Arguments& out, int threads, const std::string& level) {
  const SwiGlu inputs = gated(gate, up);
  rowwise::swiglu(inputs, matrix("out", out, inputs.rows, inputs.width, Access::write), checked_threads(threads),
                  parse_level(level));
}

void swiglu_backward(const Arguments& out_gradient, const Arguments& gate, const Arguments& up,
                     const Arguments& gate_gradient, const Arguments& up_gradient, int threads, const std::string& level) {
  const SwiGlu inputs = gated(gate, up);
  const int64_t rows = inputs.rows, width = inputs.width;
  rowwise::swiglu_backward(inputs, matrix("out_gradient", out_gradient, rows, width, Access::read),
                           matrix("gate_gradient", gate_gradient, rows, width, Access::write),
                           matrix("up_gradient", up_gradient, rows, width, Access::write), checked_threads(threads),
                           parse_level(level));
}

RmsNorm normed(const Arguments& x, const Arguments& weight, double epsilon) {
  const TensorView view = checked("x", x, 2, Access::read), scale = checked("weight", weight, 1, Access::read);
  const int64_t rows = view.shape[0], width = view.shape[1];
  if (scale.shape[0] != width) fail("weight: must be [" + std::to_string(width) + "]");
  return {rows, width, {static_cast<float*>(view.data), view.strides[0]}, static_cast<const float*>(scale.data),
          static_cast<float>(epsilon)};
}

void rms_norm(const Arguments& x, const Arguments& weight, double epsilon, const Arguments& out, int threads,
              const std::string& level) {
  const RmsNorm inputs = normed(x, weight, epsilon);
  rowwise::rms_norm(inputs, matrix("out", out, inputs.rows, inputs.width, Access::write), checked_threads(threads),
                    parse_level(level));
}

void rms_norm_backward(const Arguments& out_gradient, const Arguments& x, const Arguments& weight, double epsilon,
                       const Arguments& x_gradient, int threads, const std::string& level) {
  const RmsNorm inputs = normed(x, weight, epsilon);
  rowwise::rms_norm_backward(inputs, matrix("out_gradient", out_gradient, inputs.rows, inputs.width, Access::read),
                             matrix("x_gradient", x_gradient, inputs.rows, inputs.width, Access::write),
                             checked_threads(threads), parse_level(level));
}

Angles angles(const char* name, const Arguments& arguments, const Rotary& inputs) {
  const TensorView view = checked(name, arguments, 3, Access::read);
  must_be(name, view, {inputs.batch, inputs.tokens, inputs.width});
  return {static_cast<const float*>(view.data), view.strides[0], view.strides[1]};
}

// out: [batch, tokens, heads, width], so that it may not overlap itself.
void rotary(const Arguments& x, const Arguments& cos, const Arguments& sin, const Arguments& out, bool backward, int threads,
            const std::string& level) {
  const TensorView of = checked("x", x, 4, Access::read), to = checked("out", out, 4, Access::write);
  Rotary inputs{of.shape[0], of.shape[1], of.shape[2], of.shape[3], {}, {}, {}};
  inputs.x = {static_cast<float*>(of.data), of.strides[0], of.strides[1], of.strides[2]};
  if (inputs.width % 2) fail("x: its width must be even");
  inputs.cos = angles("cos", cos, inputs);
  inputs.sin = angles("sin", sin, inputs);
  must_be("out", to, {inputs.batch, inputs.tokens, inputs.heads, inputs.width});
  const Heads target{static_cast<float*>(to.data), to.strides[0], to.strides[2], to.strides[1]};
  (backward ? rowwise::rotary_backward : rowwise::rotary)(inputs, target, checked_threads(threads), parse_level(level));
}

}  // namespace

void bind_rowwise(py::module_& module) {
  module.def("swiglu", &swiglu, GilReleased(), "gate"_a, "up"_a, "out"_a, "threads"_a, "cpu_level"_a = "",
             "out = silu(gate) up.");
  module.def("swiglu_backward", &swiglu_backward, GilReleased(), "out_gradient"_a, "gate"_a, "up"_a, "gate_gradient"_a,
             "up_gradient"_a, "threads"_a, "cpu_level"_a = "", "Gradients of gate and up.");
  module.def("rms_norm", &rms_norm, GilReleased(), "x"_a, "weight"_a, "epsilon"_a, "out"_a, "threads"_a,
             "cpu_level"_a = "", "out = weight x / sqrt(mean(x^2) + epsilon).");
  module.def("rms_norm_backward", &rms_norm_backward, GilReleased(), "out_gradient"_a, "x"_a, "weight"_a, "epsilon"_a,
             "x_gradient"_a, "threads"_a, "cpu_level"_a = "", "The gradient of x.");
  module.def("rotary", &rotary, GilReleased(), "x"_a, "cos"_a, "sin"_a, "out"_a, "backward"_a, "threads"_a,
             "cpu_level"_a = "", "out = x cos + rotate(x) sin; backward: from the output's gradient to the input's.");
}

}  // namespace adaptinf
