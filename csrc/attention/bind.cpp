// Python's view of this folder. Heads: [batch, heads, tokens, width]; gradients and outputs: [batch, tokens, heads, width],
// contiguous.
#include "../binding.h"
#include "attention.h"

#include <array>
#include <cmath>
#include <optional>

namespace adaptinf {
namespace {

using attention::Gradients;
using attention::Heads;
using attention::Mask;
using attention::Problem;

constexpr int64_t kMost = int64_t{1} << 24;  // of a head's tokens and of their width: buffers stay below 64 bits

const TensorView& on_cpu(const char* name, const TensorView& view) {
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be in the memory of the CPU");
  return view;
}

Heads readable(const char* name, const Arguments& arguments, std::vector<int64_t>& shape) {
  const TensorView view = on_cpu(name, checked_view(name, arguments, {DType::float32}, 4, Access::read));
  shape = view.shape;
  if (shape[2] > kMost || shape[3] > kMost) fail(std::string(name) + ": more than 2^24 tokens or columns");
  return {static_cast<float*>(view.data), view.strides[0], view.strides[1], view.strides[2]};
}

// [batch, tokens, heads, width], contiguous.
Heads heads(const char* name, const Arguments& arguments, int64_t batch, int64_t heads, int64_t tokens, int64_t width,
            Access access) {
  const TensorView view = on_cpu(name, checked_view(name, arguments, {DType::float32}, 4, access));
  must_be(name, view, {batch, tokens, heads, width});
  return {static_cast<float*>(view.data), view.strides[0], view.strides[2], view.strides[1]};
}

float* log_sums(const Problem& problem, const Arguments& arguments, Access access) {
  const TensorView view = on_cpu("log_sums", checked_view("log_sums", arguments, {DType::float32}, 1, access));
  must_be("log_sums", view, {problem.batch * problem.heads * problem.queries});
  return static_cast<float*>(view.data);
}

using Inputs = std::tuple<Arguments, Arguments, Arguments, std::optional<Arguments>, bool, double>;

Problem checked(const Inputs& inputs) {
  const auto& [query, key, value, mask, causal, scale] = inputs;
  std::vector<int64_t> of_query, of_key, of_value;
  Problem problem{};
  problem.query = readable("query", query, of_query);
  problem.key = readable("key", key, of_key);
  problem.value = readable("value", value, of_value);
  problem.batch = of_query[0], problem.heads = of_query[1], problem.queries = of_query[2], problem.width = of_query[3];
  problem.key_heads = of_key[1], problem.keys = of_key[2], problem.value_width = of_value[3];
  if (of_key[0] != problem.batch || of_key[3] != problem.width) fail("key: its batch and width must be those of query");
  for (const size_t one : {0, 1, 2})
    if (of_value[one] != of_key[one]) fail("value: its batch, heads and tokens must be those of key");
  if (problem.key_heads == 0 ? problem.heads != 0 : problem.heads % problem.key_heads != 0)
    fail("query: its heads must be a multiple of those of key");
  checked_product(checked_product(problem.batch, problem.heads, "query"), problem.queries, "query");
  problem.causal = causal;
  problem.scale = static_cast<float>(scale);
  if (mask) {
    const TensorView view = on_cpu("mask", checked_view("mask", *mask, {DType::int8}, 4, Access::read));
    must_be("mask", view, {problem.batch, problem.heads, problem.queries, problem.keys});
    problem.mask = {static_cast<const int8_t*>(view.data), view.strides[0], view.strides[1], view.strides[2]};
  }
  return problem;
}

int checked_threads(int threads) {
  if (threads < 1) fail("threads: must be at least 1");
  return threads;
}

void forward(const Inputs& inputs, const Arguments& out, const Arguments& log_sums_arguments, int threads,
             const std::string& level) {
  const Problem problem = checked(inputs);
  const Heads target = heads("out", out, problem.batch, problem.heads, problem.queries, problem.value_width, Access::write);
  attention::forward(problem, target, log_sums(problem, log_sums_arguments, Access::write), checked_threads(threads),
                     parse_level(level));
}

void backward(const Inputs& inputs, const Arguments& log_sums_arguments, const Arguments& out_gradient,
              const std::array<Arguments, 3>& gradients, int threads, const std::string& level) {
  const Problem problem = checked(inputs);
  const int64_t batch = problem.batch, queries = problem.queries, keys = problem.keys, width = problem.value_width;
  const Heads given = heads("out_gradient", out_gradient, batch, problem.heads, queries, width, Access::read);
  const Gradients found{heads("query_gradient", gradients[0], batch, problem.heads, queries, problem.width, Access::write),
                        heads("key_gradient", gradients[1], batch, problem.key_heads, keys, problem.width, Access::write),
                        heads("value_gradient", gradients[2], batch, problem.key_heads, keys, width, Access::write)};
  attention::backward(problem, log_sums(problem, log_sums_arguments, Access::read), given, found, checked_threads(threads),
                      parse_level(level));
}

}  // namespace

void bind_attention(py::module_& module) {
  module.def("attention", &forward, GilReleased(), "inputs"_a, "out"_a, "log_sums"_a, "threads"_a, "cpu_level"_a = "",
             "softmax(scale Q K^T) V; inputs are (query, key, value, mask or None, causal, scale).");
  module.def("attention_backward", &backward, GilReleased(), "inputs"_a, "log_sums"_a, "out_gradient"_a, "gradients"_a,
             "threads"_a, "cpu_level"_a = "", "Gradients of query, key and value.");
}

}  // namespace adaptinf
