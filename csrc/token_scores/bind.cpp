// Python's view of this folder.
#include "token_scores.h"

#include <array>
#include <optional>

#include "../binding.h"

namespace adaptinf {
namespace {

const std::vector<DType> kFloats{DType::float32, DType::float16, DType::bfloat16};

void on_cpu(const char* name, const TensorView& view) {
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be on the CPU");
}

float* score(const char* name, const Arguments& arguments, int64_t tokens) {
  const TensorView view = checked_view(name, arguments, {DType::float32}, 1, Access::write);
  on_cpu(name, view);
  if (view.shape[0] != tokens) fail(std::string(name) + ": must be [T]");
  return static_cast<float*>(view.data);
}

void token_scores(const Arguments& hidden_arguments, const std::optional<Arguments>& weight_arguments,
                  const std::optional<Arguments>& bias_arguments, const Arguments& labels_arguments,
                  const std::array<Arguments, 4>& outputs, const std::optional<Arguments>& grad_arguments, int threads,
                  const std::string& level_name) {
  const CpuLevel level = parse_level(level_name);
  if (threads < 1) fail("threads: must be at least 1");
  TokenScores scores{};
  scores.hidden = checked_view("hidden", hidden_arguments, kFloats, 2, Access::read);
  on_cpu("hidden", scores.hidden);
  const int64_t tokens = scores.hidden.shape[0], width = scores.hidden.shape[1];
  int64_t vocabulary = width;
  if (weight_arguments) {
    scores.weight = checked_view("weight", *weight_arguments, kFloats, 2, Access::read);
    on_cpu("weight", *scores.weight);
    vocabulary = scores.weight->shape[0];
    if (scores.weight->shape[1] != width) fail("weight: must be [V, d] with the d of hidden");
  }
  if (vocabulary == 0) fail("the vocabulary is empty");
  if (bias_arguments) {
    scores.bias = checked_view("bias", *bias_arguments, kFloats, 1, Access::read);
    on_cpu("bias", *scores.bias);
    if (!scores.weight || scores.bias->shape[0] != vocabulary) fail("bias: must be [V] beside a weight [V, d]");
  }
  const TensorView labels = checked_view("labels", labels_arguments, {DType::int64}, 1, Access::read);
  on_cpu("labels", labels);
  if (labels.shape[0] != tokens) fail("labels: must be [T]");
  scores.nll = score("nll", outputs[0], tokens);
  scores.entropy = score("entropy", outputs[1], tokens);
  scores.el2n_sq = score("el2n_sq", outputs[2], tokens);
  scores.margin = score("margin", outputs[3], tokens);
  if (grad_arguments) {
    scores.grad = checked_view("grad", *grad_arguments, {DType::float32}, 2, Access::write);
    on_cpu("grad", *scores.grad);
    if (scores.grad->shape[0] != tokens || scores.grad->shape[1] != width) fail("grad: must be [T, d]");
  }
  scores.labels = static_cast<const int64_t*>(labels.data);
  for (int64_t token = 0; token < tokens; ++token)
    if (scores.labels[token] >= vocabulary) fail("labels: beyond the vocabulary");
  token_scores_cpu(scores, threads, level);
}

}  // namespace

void bind_token_scores(py::module_& module) {
  module.def("token_scores", &token_scores, GilReleased(), "hidden"_a, "weight"_a, "bias"_a, "labels"_a, "outputs"_a,
             "grad"_a, "threads"_a, "cpu_level"_a = "",
             "Fill outputs (nll, entropy, el2n_sq, margin: float32 [T] each) and grad float32 [T, d]; CPU.");
}

}  // namespace adaptinf
