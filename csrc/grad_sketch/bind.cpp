// Python's view of this folder. Sketch: (kind, k, slices, tile rows, tile columns). A parameter's key: Philox's, or for xorts
// the codes of its rows and of its columns. Preconditioner: (form, first moment,
// second moment or scale, [beta1, beta2, eps, n]).
#include <cmath>
#include <variant>

#include "../binding.h"
#include "arguments.h"
#include "grad_sketch.h"

namespace adaptinf {
namespace {

using SketchArguments = std::tuple<std::string, int64_t, int64_t, int64_t, int64_t>;
using KeyArguments = std::variant<uint64_t, std::pair<Arguments, Arguments>>;
using StateArguments = std::tuple<std::string, std::optional<Arguments>, std::optional<Arguments>, std::vector<double>>;

constexpr int64_t kMaxRows = int64_t{1} << 32;

// Of a parameter [rows, columns]; an embedding has as many rows as there are codes.
Key checked_key(const KeyArguments& arguments, const Context& context, std::optional<int64_t> rows, int64_t columns) {
  if ((context.kind == Kind::xorts) != (arguments.index() == 1)) fail("key: codes of rows and columns are what xorts takes");
  if (arguments.index() == 0) {
    const uint64_t key = std::get<0>(arguments);
    return {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}, {}, {}};
  }
  const auto& [row_codes, column_codes] = std::get<1>(arguments);
  Key key{{}, checked_codes("row codes", row_codes, context.sketch.k), checked_codes("column codes", column_codes, context.sketch.k)};
  if (key.rows.ids != rows.value_or(key.rows.ids)) fail("row codes: must be as many as the parameter has rows");
  if (key.columns.ids != columns) fail("column codes: must be as many as the parameter has columns");
  if (key.rows.repetitions != key.columns.repetitions) fail("key: rows and columns differ in their repetitions");
  return key;
}

void check_parameter(int64_t rows, int64_t columns) {
  if (rows < 0 || columns < 0) fail("parameter: a size is negative");
  if (rows > kMaxRows) fail("parameter: more than 2^32 rows");
  checked_product(checked_product(rows, columns, "parameter"), 8, "parameter");
}

Preconditioning preconditioning(const StateArguments& arguments, const SketchArguments& sketch, int64_t rows, int64_t columns) {
  const auto& [form, first, second, numbers] = arguments;
  Preconditioning result;
  if (form.empty()) return result;
  if (std::get<0>(sketch) == "xorts") fail("preconditioner: xorts takes none");
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
  if (kind != "sjlt" && kind != "rademacher" && kind != "xorts") fail("sketch: kind '" + kind + "' is not one of them");
  if (k < 1 || k > std::numeric_limits<int32_t>::max()) fail("sketch: k must be from 1 to 2^31 - 1");
  if (slices < 1 || slices > 256 || tile_rows < 1 || tile_columns < 1 || tile_rows > k || tile_columns > k ||
      checked_product(slices * tile_rows, tile_columns, "sketch") != k)
    fail("sketch: slices of tiles do not make k");
  const int checked = checked_threads(threads);
  const TensorView z = checked_view("z", z_arguments, {DType::float32}, 2, Access::write);
  const TensorView norms = checked_view("squared_norms", norms_arguments, {DType::float32}, 1, Access::write);
  if (z.device != DeviceType::cpu || norms.device != DeviceType::cpu) fail("results must be in the memory of the CPU");
  if (z.shape[0] != samples || z.shape[1] != k) fail("z: must be [samples, k]");
  if (norms.shape[0] != 0 && norms.shape[0] != samples) fail("squared_norms: must be [samples] or [0]");
  const Output output{static_cast<float*>(z.data), samples > 1 ? z.strides[0] : 0,
                      norms.shape[0] == 0 ? nullptr : static_cast<float*>(norms.data)};
  const CpuLevel cpu = parse_level(level);
  return {kind == "sjlt" ? Kind::sjlt : kind == "xorts" ? Kind::xorts : Kind::rademacher,
          {k, slices, tile_rows, tile_columns}, output, cpu, kernels(cpu), checked};
}

int64_t samples_of(const std::vector<int64_t>& bounds) { return static_cast<int64_t>(bounds.size()) - 1; }

void linear(const Arguments& x_arguments, const Arguments& grad_out_arguments, const std::vector<int64_t>& bounds,
            const SketchArguments& sketch, const KeyArguments& key, const StateArguments& state, const Arguments& z,
            const Arguments& squared_norms, int64_t threads, const std::string& level) {
  const Matrix x = readable("x", x_arguments), grad_out = readable("grad_out", grad_out_arguments);
  check_bounds(bounds, x.rows);
  check_shape("grad_out", grad_out, x.rows, grad_out.columns);
  check_parameter(grad_out.columns, x.columns);
  const Preconditioning by = preconditioning(state, sketch, grad_out.columns, x.columns);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  if (samples_of(bounds) > 0) grad_sketch_linear(how, x, grad_out, bounds, checked_key(key, how, grad_out.columns, x.columns), by);
}

void lora(const Arguments& x_arguments, const Arguments& grad_out_arguments, const Arguments& a_arguments,
          const Arguments& b_arguments, const std::vector<int64_t>& bounds, const SketchArguments& sketch, const KeyArguments& key_a,
          const KeyArguments& key_b, double scaling, const std::optional<Arguments>& magnitude, const StateArguments& state_a,
          const StateArguments& state_b, const Arguments& z, const Arguments& squared_norms, int64_t threads,
          const std::string& level) {
  const Matrix x = readable("x", x_arguments), grad_out = readable("grad_out", grad_out_arguments);
  Lora lora{readable("lora_a", a_arguments), readable("lora_b", b_arguments), scaling, {}, {}, {}, {}, {}};
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
  lora.preconditioning_a = preconditioning(state_a, sketch, rank, x.columns);
  lora.preconditioning_b = preconditioning(state_b, sketch, grad_out.columns, rank);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  lora.key_a = checked_key(key_a, how, rank, x.columns);
  lora.key_b = checked_key(key_b, how, grad_out.columns, rank);
  if (samples_of(bounds) > 0) grad_sketch_lora(how, x, grad_out, bounds, lora);
}

void vector(const std::optional<Arguments>& factor_arguments, const Arguments& grad_out_arguments,
            const std::vector<int64_t>& bounds, const SketchArguments& sketch, const KeyArguments& key, const StateArguments& state,
            const Arguments& z, const Arguments& squared_norms, int64_t threads, const std::string& level) {
  const Matrix grad_out = readable("grad_out", grad_out_arguments);
  std::optional<Matrix> factor;
  if (factor_arguments) {
    factor = readable("factor", *factor_arguments);
    check_shape("factor", *factor, grad_out.rows, grad_out.columns);
  }
  check_bounds(bounds, grad_out.rows);
  check_parameter(1, grad_out.columns);
  const Preconditioning by = preconditioning(state, sketch, 1, grad_out.columns);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  if (samples_of(bounds) > 0) grad_sketch_vector(how, factor, grad_out, bounds, checked_key(key, how, 1, grad_out.columns), by);
}

void embedding(const std::vector<int64_t>& ids, const Arguments& grad_out_arguments, const std::vector<int64_t>& bounds,
               const SketchArguments& sketch, const KeyArguments& key, int64_t padding, const Arguments& z,
               const Arguments& squared_norms, int64_t threads, const std::string& level) {
  const Matrix grad_out = readable("grad_out", grad_out_arguments);
  if (static_cast<int64_t>(ids.size()) != grad_out.rows) fail("ids: must be as many as grad_out has rows");
  for (const int64_t id : ids)
    if (id < 0 || id >= kMaxRows) fail("ids: must be from 0 to 2^32 - 1");
  check_bounds(bounds, grad_out.rows);
  check_parameter(kMaxRows, grad_out.columns);
  const Context how = context(sketch, z, squared_norms, samples_of(bounds), threads, level);
  const Key checked = checked_key(key, how, {}, grad_out.columns);
  for (const int64_t id : ids)
    if (how.kind == Kind::xorts && id >= checked.rows.ids) fail("ids: an id has no code");
  grad_sketch_embedding(how, ids, grad_out, bounds, checked, padding);
}

void project_rows(const Arguments& gradients_arguments, int64_t rows, int64_t columns, const SketchArguments& sketch,
                  const KeyArguments& key, const Arguments& z, int64_t threads, const std::string& level) {
  const Matrix gradients = readable("gradients", gradients_arguments);
  check_parameter(rows, columns);
  check_shape("gradients", gradients, gradients.rows, rows * columns);
  const Arguments no_norms{0, {0}, {1}, static_cast<int64_t>(DType::float32), 1, 0};
  const Context how = context(sketch, z, no_norms, gradients.rows, threads, level);
  if (gradients.rows > 0) project(how, gradients, rows, columns, checked_key(key, how, rows, columns));
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
