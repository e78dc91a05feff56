// Python's view of this folder.
#include <limits>

#include "../binding.h"
#include "philox_fill.h"

namespace adaptinf {
namespace {

constexpr uint64_t kMaxRow = uint64_t{1} << 32;
constexpr uint64_t kMaxColumn = (uint64_t{1} << 63) - 128;

PhiloxKey split(uint64_t key) { return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)}; }

bool is_empty(const TensorView& view) { return view.shape[0] == 0 || view.shape[1] == 0; }

void philox_words(uint64_t key, uint64_t start, uint32_t word2, uint32_t word3, const Arguments& out_arguments,
                  uint64_t stream, const std::string& level_name) {
  const TensorView out = checked_view("out", out_arguments, {DType::int64}, 2, Access::write);
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

void philox_signs(uint64_t key, uint32_t domain, uint64_t row, uint64_t column, const Arguments& out_arguments,
                  uint64_t stream, const std::string& level_name) {
  const TensorView out = checked_view("out", out_arguments, {DType::int8}, 2, Access::write);
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

}  // namespace

void bind_sketch(py::module_& module) {
  module.def("philox_words", &philox_words, GilReleased(), "key"_a, "start"_a, "word2"_a, "word3"_a, "out"_a, "stream"_a = 0,
             "cpu_level"_a = "", "Fill out int64 [count, 4] with Philox4x32-10 words.");
  module.def("philox_signs", &philox_signs, GilReleased(), "key"_a, "domain"_a, "row"_a, "column"_a, "out"_a,
             "stream"_a = 0, "cpu_level"_a = "", "Fill out int8 [rows, columns] with random signs.");
}

}  // namespace adaptinf
