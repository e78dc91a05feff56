// Python's view of this folder. Sketch: (kind, k, slices, tile rows, tile columns). Preconditioner: (form, first moment,
// second moment or scale, [beta1, beta2, eps, n]).
#include <cmath>

#include "../binding.h"
#include "grad_sketch.h"

namespace adaptinf {
namespace {

using SketchArguments = std::tuple<std::string, int64_t, int64_t, int64_t, int64_t>;
using StateArguments = std::tuple<std::string, std::optional<Arguments>, std::optional<Arguments>, std::vector<double>>;

constexpr int64_t kMaxRows = int64_t{1} << 32, kMaxThreads = 4096;

PhiloxKey split(uint64_t key) { return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}; }

Matrix readable(const char* name, const Arguments& arguments) {
  const TensorView view =
      checked_view(name, arguments, {DType::float32, DType::float16, DType::bfloat16}, 2, Access::read);
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be in the memory of the CPU");
  return Matrix(view);
}

void check_shape(const char* name, const Matrix& matrix, int64_t rows, int64_t columns) {
  if (matrix.rows != rows || matrix.columns != columns)
    fail(std::string(name) + ": must be [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
}

void check_parameter(int64_t rows, int64_t columns) {
  if (rows < 0 || columns < 0) fail("parameter: a size is negative");
  if (rows > kMaxRows) fail("parameter: more than 2^32 rows");
  checked_product(checked_product(rows, columns, "parameter"), 8, "parameter");
}

void check_bounds(const std::vector<int64_t>& bounds, int64_t tokens) {
  if (bounds.empty() || bounds.front() != 0 || bounds.back() != tokens) fail("bounds: must run from 0 to the tokens");
  for (size_t i = 1; i < bounds.size(); ++i)
    if (bounds[i] < bounds[i - 1]) fail("bounds: must not fall");
}

Preconditioning preconditioning(const StateArguments& arguments, int64_t rows, int64_t columns) {
  const auto& [form, first, second, numbers] = arguments;
  Preconditioning result;
  if (form.empty()) return result;
  if (numbers.size() != 4) fail("preconditioner: needs four numbers");
  result.by.form = form == "diagonal" ? Form::diagonal : form == "less" ? Form::less : Form::adam;
  if (form != "diagonal" && form != "less" && form != "adam") fail("preconditioner: '" + form + "' is no form of one");
  const bool moments = result.by.form != Form::diagonal;
  if (!second || first.has_value() != moments) fail("preconditioner: a moment is missing, or there is one too many");
  if (moments) result.first = readable("first moment", *first);
  result.second = readable("second moment", *second);
  if (moments) check_shape("first moment", *result.first, rows, columns);
  check_shape("second moment", *result.second, rows, columns);
  result.by.beta1 = static_cast<float>(numbers[0]);
  result.by.rest1 = static_cast<float>(1 - numbers[0]);
  result.by.beta2 = static_cast<float>(numbers[1]);
  result.by.rest2 = static_cast<float>(1 - numbers[1]);
  result.by.eps = static_cast<float>(numbers[2]);
  result.by.correction1 = static_cast<float>(1 / (1 - std::pow(numbers[0], numbers[3])));
  result.by.correction2 = static_cast<float>(1 / (1 - std::pow(numbers[1], numbers[3])));
  return result;
}

// `squared_norms` is float32 [samples], or empty where they are not wanted.
Context context(const SketchArguments& sketch_arguments, const Arguments& z_arguments, const Arguments& norms_arguments,
                int64_t samples, int64_t threads, const std::string& level) {
  const auto& [kind, k, slices, tile_rows, tile_columns] = sketch_arguments;
  if (kind != "sjlt" && kind != "rademacher") fail("sketch: kind '" + kind + "' is neither sjlt nor rademacher");
  if (k < 1 || k > std::numeric_limits<int32_t>::max()) fail("sketch: k must be from 1 to 2^31 - 1");
  if (slices < 1 || slices > 256 || tile_rows < 1 || tile_columns < 1 || tile_rows > k || tile_columns > k ||
      checked_product(slices * tile_rows, tile_columns, "sketch") != k)
    fail("sketch: slices of tiles do not make k");
  if (threads < 1 || threads > kMaxThreads) fail("threads: must be from 1 to 4096");
  const TensorView z = checked_view("z", z_arguments, {DType::float32}, 2, Access::write);
  const TensorView norms = checked_view("squared_norms", norms_arguments, {DType::float32}, 1, Access::write);
  if (z.device != DeviceType::cpu || norms.device != DeviceType::cpu) fail("results must be in the memory of the CPU");
  if (z.shape[0] != samples || z.shape[1] != k) fail("z: must be [samples, k]");
  if (norms.shape[0] != 0 && norms.shape[0] != samples) fail("squared_norms: must be [samples] or [0]");
  const Output output{static_cast<float*>(z.data), samples > 1 ? z.strides[0] : 0,
                      norms.shape[0] == 0 ? nullptr : static_cast<float*>(norms.data)};
  return {kind == "sjlt", {k, slices, tile_rows, tile_columns}, output, kernels(parse_level(level)),
          static_cast<int>(threads)};
}

int64_t samples_of(const std::vector<int64_t>& bounds) { return static_cast<int64_t>(bounds.size()) - 1; }

void linear(const Arguments& x_arguments, const Arguments& grad_out_arguments, const std::vector<int64_t>& bounds,
            const SketchArguments& sketch, uint64_t key, const StateArguments& state, const Arguments& z,
            const Arguments& squared_norms, int64_t threads, const std::string& level) {
  const Matrix x = readable("x", x_arguments), grad_out = readable("grad_out", grad_out_arguments);
  check_bounds(bounds, x.rows);
  check_shape("grad_out", grad_out, x.rows, grad_out.columns);
  check_parameter(grad_out.columns, x.columns);
  const Preconditioning by = preconditioning(state, grad_out.columns, x.columns);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  if (samples_of(bounds) > 0) grad_sketch_linear(how, x, grad_out, bounds, split(key), by);
}

void lora(const Arguments& x_arguments, const Arguments& grad_out_arguments, const Arguments& a_arguments,
          const Arguments& b_arguments, const std::vector<int64_t>& bounds, const SketchArguments& sketch, uint64_t key_a,
          uint64_t key_b, double scaling, const std::optional<Arguments>& magnitude, const StateArguments& state_a,
          const StateArguments& state_b, const Arguments& z, const Arguments& squared_norms, int64_t threads,
          const std::string& level) {
  const Matrix x = readable("x", x_arguments), grad_out = readable("grad_out", grad_out_arguments);
  Lora lora{readable("lora_a", a_arguments), readable("lora_b", b_arguments), scaling, {}, split(key_a), split(key_b), {}, {}};
  const int64_t rank = lora.a.rows;
  check_bounds(bounds, x.rows);
  check_shape("grad_out", grad_out, x.rows, grad_out.columns);
  check_shape("lora_a", lora.a, rank, x.columns);
  check_shape("lora_b", lora.b, grad_out.columns, rank);
  check_parameter(rank, x.columns);
  check_parameter(grad_out.columns, rank);
  if (magnitude) {
    lora.magnitude = readable("magnitude", *magnitude);
    check_shape("magnitude", *lora.magnitude, 1, grad_out.columns);
  }
  lora.preconditioning_a = preconditioning(state_a, rank, x.columns);
  lora.preconditioning_b = preconditioning(state_b, grad_out.columns, rank);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  if (samples_of(bounds) > 0) grad_sketch_lora(how, x, grad_out, bounds, lora);
}

void vector(const std::optional<Arguments>& factor_arguments, const Arguments& grad_out_arguments,
            const std::vector<int64_t>& bounds, const SketchArguments& sketch, uint64_t key, const StateArguments& state,
            const Arguments& z, const Arguments& squared_norms, int64_t threads, const std::string& level) {
  const Matrix grad_out = readable("grad_out", grad_out_arguments);
  std::optional<Matrix> factor;
  if (factor_arguments) {
    factor = readable("factor", *factor_arguments);
    check_shape("factor", *factor, grad_out.rows, grad_out.columns);
  }
  check_bounds(bounds, grad_out.rows);
  check_parameter(1, grad_out.columns);
  const Preconditioning by = preconditioning(state, 1, grad_out.columns);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  if (samples_of(bounds) > 0) grad_sketch_vector(how, factor, grad_out, bounds, split(key), by);
}

void embedding(const std::vector<int64_t>& ids, const Arguments& grad_out_arguments, const std::vector<int64_t>& bounds,
               const SketchArguments& sketch, uint64_t key, int64_t padding, const Arguments& z,
               const Arguments& squared_norms, int64_t threads, const std::string& level) {
  const Matrix grad_out = readable("grad_out", grad_out_arguments);
  if (static_cast<int64_t>(ids.size()) != grad_out.rows) fail("ids: must be as many as grad_out has rows");
  for (const int64_t id : ids)
    if (id < 0 || id >= kMaxRows) fail("ids: must be from 0 to 2^32 - 1");
  check_bounds(bounds, grad_out.rows);
  check_parameter(kMaxRows, grad_out.columns);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  grad_sketch_embedding(how, ids, grad_out, bounds, split(key), padding);
}

void project_rows(const Arguments& gradients_arguments, int64_t rows, int64_t columns, const SketchArguments& sketch,
                  uint64_t key, const Arguments& z, int64_t threads, const std::string& level) {
  const Matrix gradients = readable("gradients", gradients_arguments);
  check_parameter(rows, columns);
  check_shape("gradients", gradients, gradients.rows, rows * columns);
  const Arguments no_norms{0, {0}, {1}, static_cast<int64_t>(DType::float32), 1, 0};
  const Context how = context(sketch, z, no_norms, gradients.rows, threads, level);
  if (gradients.rows > 0) project(how, gradients, rows, columns, split(key));
}

}  // namespace

void bind_grad_sketch(py::module_& module) {
  module.def("grad_sketch_linear", &linear, GilReleased(), "x"_a, "grad_out"_a, "bounds"_a, "sketch"_a, "key"_a, "state"_a,
             "z"_a, "squared_norms"_a, "threads"_a, "cpu_level"_a = "", "Sketches of G^T X of every segment.");
  module.def("grad_sketch_lora", &lora, GilReleased(), "x"_a, "grad_out"_a, "lora_a"_a, "lora_b"_a, "bounds"_a, "sketch"_a,
             "key_a"_a, "key_b"_a, "scaling"_a, "magnitude"_a, "state_a"_a, "state_b"_a, "z"_a, "squared_norms"_a,
             "threads"_a, "cpu_level"_a = "", "Sketches of the gradients of LoRA's A and B of every segment.");
  module.def("grad_sketch_vector", &vector, GilReleased(), "factor"_a, "grad_out"_a, "bounds"_a, "sketch"_a, "key"_a,
             "state"_a, "z"_a, "squared_norms"_a, "threads"_a, "cpu_level"_a = "",
             "Sketches of the sums of grad_out (* factor) over every segment.");
  module.def("grad_sketch_embedding", &embedding, GilReleased(), "ids"_a, "grad_out"_a, "bounds"_a, "sketch"_a, "key"_a,
             "padding"_a, "z"_a, "squared_norms"_a, "threads"_a, "cpu_level"_a = "",
             "Sketches of the gradients of an embedding table of every segment.");
  module.def("project", &project_rows, GilReleased(), "gradients"_a, "rows"_a, "columns"_a, "sketch"_a, "key"_a, "z"_a,
             "threads"_a, "cpu_level"_a = "", "Sketches of the rows of a matrix, seen as weights.");
}

}  // namespace adaptinf
