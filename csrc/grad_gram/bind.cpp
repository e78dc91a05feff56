// Python's view of this folder. Samples: (x, grad_out, bounds).
#include "../binding.h"
#include "../grad_sketch/arguments.h"
#include "grad_gram.h"

namespace adaptinf {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 31;

using SamplesArguments = std::tuple<Arguments, Arguments, std::vector<int64_t>>;

Samples checked_samples(const SamplesArguments& arguments) {
  const auto& [x_arguments, grad_out_arguments, bounds] = arguments;
  const Matrix x = readable("x", x_arguments), grad_out = readable("grad_out", grad_out_arguments);
  check_bounds(bounds, x.rows);
  check_shape("grad_out", grad_out, x.rows, grad_out.columns);
  if (x.rows > kMaxTokens) fail("x: more than 2^31 tokens");
  for (const int64_t columns : {x.columns, grad_out.columns}) checked_product(kMaxTokens * 8, columns, "samples");
  return {x, grad_out, bounds};
}

void gram(const SamplesArguments& rows_arguments, const std::optional<SamplesArguments>& columns_arguments,
          const Arguments& out_arguments, int64_t threads, const std::string& level) {
  const Samples rows = checked_samples(rows_arguments);
  std::optional<Samples> columns;
  if (columns_arguments) {
    columns = checked_samples(*columns_arguments);
    check_shape("other x", columns->x, columns->x.rows, rows.x.columns);
    check_shape("other grad_out", columns->grad_out, columns->grad_out.rows, rows.grad_out.columns);
  }
  const TensorView out = checked_view("out", out_arguments, {DType::float32}, 2, Access::write);
  if (out.device != DeviceType::cpu) fail("out: must be in the memory of the CPU");
  const size_t wide = (columns ? columns->bounds : rows.bounds).size() - 1;
  if (static_cast<size_t>(out.shape[0]) != rows.bounds.size() - 1 || static_cast<size_t>(out.shape[1]) != wide)
    fail("out: must be [samples, samples] or [samples, other samples]");
  grad_gram(rows, columns, static_cast<float*>(out.data), out.shape[0] > 1 ? out.strides[0] : 0, kernels(parse_level(level)),
            checked_threads(threads));
}

}  // namespace

void bind_grad_gram(py::module_& module) {
  module.def("grad_gram", &gram, GilReleased(), "rows"_a, "columns"_a, "out"_a, "threads"_a, "cpu_level"_a = "",
             "Inner products of the gradients G^T X of segments, among themselves or with those of `columns`.");
}

}  // namespace adaptinf
