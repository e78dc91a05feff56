// The pybind11 shell: plain functions of numbers. Every argument is checked before anything is touched; the interpreter
// lock is released while they run.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "adaptinf_build.h"
#include "common/cpu_features.h"
#include "common/tensor_view.h"
#include "sketch/philox_fill.h"

namespace py = pybind11;
using namespace py::literals;

namespace adaptinf {
namespace {

constexpr uint64_t kMaxRow = uint64_t{1} << 32;
constexpr uint64_t kMaxColumn = (uint64_t{1} << 63) - 128;

PhiloxKey split(uint64_t key) { return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}; }

[[noreturn, maybe_unused]] void no_cuda() { fail(std::string("this module has no CUDA part: ") + ADAPTINF_CUDA_REASON); }

bool is_empty(const TensorView& view) { return view.shape[0] == 0 || view.shape[1] == 0; }

CpuLevel parse_level(const std::string& name) {
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512})
    if (name == cpu_level_name(level)) {
      if (level > cpu_level()) fail("this processor has no " + name);
      return level;
    }
  if (!name.empty()) fail("cpu_level '" + name + "': choose from portable, avx2, avx512, or '' for the best");
  return cpu_level();
}

void philox_words(uint64_t key, uint64_t start, uint32_t word2, uint32_t word3, uint64_t out_pointer,
                  const std::vector<int64_t>& out_shape, const std::vector<int64_t>& out_strides, int64_t out_dtype,
                  int64_t device_type, int64_t device_index, uint64_t stream, const std::string& level_name) {
  const TensorView out = matrix_view("out", out_pointer, out_shape, out_strides, out_dtype, DType::int64, device_type,
                                     device_index);
  const CpuLevel level = parse_level(level_name);
  if (out.shape[1] != 4) fail("out: must be [count, 4]");
  if (is_empty(out)) return;
  if (static_cast<uint64_t>(out.shape[0] - 1) > std::numeric_limits<uint64_t>::max() - start)
    fail("start: counters beyond 2^64 - 1");
  const Words words{split(key), start, word2, word3};
  if (out.device == DeviceType::cpu) return fill_words_cpu(words, out, level);
#if ADAPTINF_HAS_CUDA
  fill_words_cuda(words, out, stream);
#else
  (void)stream;
  no_cuda();
#endif
}

void philox_signs(uint64_t key, uint32_t domain, uint64_t row, uint64_t column, uint64_t out_pointer,
                  const std::vector<int64_t>& out_shape, const std::vector<int64_t>& out_strides, int64_t out_dtype,
                  int64_t device_type, int64_t device_index, uint64_t stream, const std::string& level_name) {
  const TensorView out = matrix_view("out", out_pointer, out_shape, out_strides, out_dtype, DType::int8, device_type,
                                     device_index);
  const CpuLevel level = parse_level(level_name);
  if (row > kMaxRow || static_cast<uint64_t>(out.shape[0]) > kMaxRow - row) fail("row: rows beyond 2^32");
  if (column > kMaxColumn || static_cast<uint64_t>(out.shape[1]) > kMaxColumn - column)
    fail("column: columns beyond 2^63 - 128");
  if (is_empty(out)) return;
  const Signs signs{split(key), domain, row, column};
  if (out.device == DeviceType::cpu) return fill_signs_cpu(signs, out, level);
#if ADAPTINF_HAS_CUDA
  fill_signs_cuda(signs, out, stream);
#else
  (void)stream;
  no_cuda();
#endif
}

py::dict build_info() {
  std::vector<std::string> levels;
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512})
    if (level <= cpu_level()) levels.emplace_back(cpu_level_name(level));
  return py::dict("compiler"_a = ADAPTINF_COMPILER,
                  "cuda"_a = py::dict("built"_a = bool(ADAPTINF_HAS_CUDA), "reason"_a = ADAPTINF_CUDA_REASON,
                                      "architectures"_a = std::string(ADAPTINF_CUDA_ARCHITECTURES),
                                      "toolkit"_a = std::string(ADAPTINF_CUDA_TOOLKIT)),
                  "cpu"_a = py::dict("used"_a = cpu_level_name(cpu_level()), "levels"_a = levels));
}

}  // namespace
}  // namespace adaptinf

PYBIND11_MODULE(_C, module) {
  using namespace adaptinf;
  module.doc() = "Native kernels of adaptinf. Tensors are (pointer, shape, strides, dtype, device type, device index).";
  const auto released = py::call_guard<py::gil_scoped_release>();
  module.def("philox_words", &philox_words, released, "key"_a, "start"_a, "word2"_a, "word3"_a, "out_pointer"_a,
             "out_shape"_a, "out_strides"_a, "out_dtype"_a, "device_type"_a, "device_index"_a, "stream"_a = 0,
             "cpu_level"_a = "", "Fill out int64 [count, 4] with Philox4x32-10 words.");
  module.def("philox_signs", &philox_signs, released, "key"_a, "domain"_a, "row"_a, "column"_a, "out_pointer"_a,
             "out_shape"_a, "out_strides"_a, "out_dtype"_a, "device_type"_a, "device_index"_a, "stream"_a = 0,
             "cpu_level"_a = "", "Fill out int8 [rows, columns] with random signs.");
  module.def("build_info", &build_info, "What this module was built with, and what this processor has.");
}
