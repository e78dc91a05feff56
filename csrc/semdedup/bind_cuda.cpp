// Python's view of the CUDA part of this folder.
#include <cmath>

#include "../binding.h"
#include "../common/device_arguments.h"
#include "dedup_cuda.h"

namespace adaptinf {
namespace {

using namespace semdedup;

constexpr int64_t kMaxRows = int64_t{1} << 30, kMaxColumns = int64_t{1} << 20, kMaxThresholds = int64_t{1} << 16;

Keep parse_keep(const std::string& name) {
  if (name == "reference") return Keep::reference;
  if (name == "greedy") return Keep::greedy;
  if (name == "components") return Keep::components;
  fail("keep '" + name + "': choose from reference, greedy, components");
}

int64_t dedup_workspace(int64_t n, int64_t columns, int64_t clusters, int64_t thresholds, const std::string& keep) {
  for (const auto& [size, limit] :
       {std::pair{n, kMaxRows}, {columns, kMaxColumns}, {clusters, kMaxRows}, {thresholds, kMaxThresholds}})
    if (size < 0 || size > limit) fail("workspace: a size is negative or beyond its limit");
  [[maybe_unused]] const Keep parsed = parse_keep(keep);
#if ADAPTINF_HAS_CUDA
  return cuda_dedup_workspace(n, columns, clusters, thresholds, parsed);
#else
  no_cuda();
#endif
}

// found: kept int8, before int64, similarity float64, each [thresholds, N].
void dedup_on_device(const Arguments& x_arguments, const Arguments& rows, const std::vector<int64_t>& bounds,
                     const std::string& keep, const std::vector<double>& thresholds,
                     const std::tuple<Arguments, Arguments, Arguments>& found, const Arguments& workspace, uint64_t stream) {
  const std::vector<DType> floats{DType::float64, DType::float32, DType::float16, DType::bfloat16};
  const TensorView x = checked_view("x", x_arguments, floats, 2, Access::read);
  if (x.shape[1] > kMaxColumns) fail("x: more than 2^20 columns");
  if (bounds.empty()) fail("bounds: must be at least one number");
  const int64_t n = bounds.back(), results = static_cast<int64_t>(thresholds.size());
  check_bounds("bounds", bounds, n);
  if (n > kMaxRows || static_cast<int64_t>(bounds.size()) > kMaxRows) fail("bounds: more than 2^30 rows or clusters");
  if (results > kMaxThresholds) fail("thresholds: more than 2^16");
  if (n > 0 && x.shape[0] == 0) fail("rows: must be rows of x");
  for (const double threshold : thresholds)
    if (std::isnan(threshold)) fail("thresholds: must be numbers");

  DeviceArguments device(x);
  CudaDedup call{};
  call.x = x.data, call.dtype = x.dtype, call.x_rows = x.shape[0], call.columns = x.shape[1];
  call.row_stride = x.shape[0] > 1 ? x.strides[0] : 0;
  call.rows = device.take<const int64_t>("rows", rows, DType::int64, {n}, Access::read);
  call.bounds = bounds, call.keep = parse_keep(keep), call.thresholds = thresholds;
  call.kept = device.take<int8_t>("kept", std::get<0>(found), DType::int8, {results, n}, Access::write);
  call.before = device.take<int64_t>("before", std::get<1>(found), DType::int64, {results, n}, Access::write);
  call.similarity = device.take<double>("similarity", std::get<2>(found), DType::float64, {results, n}, Access::write);
  const int64_t bytes = dedup_workspace(n, call.columns, call.clusters(), results, keep);
  auto* memory = device.take<int8_t>("workspace", workspace, DType::int8, {bytes}, Access::write);
  if (reinterpret_cast<uint64_t>(memory) % 256 != 0) fail("workspace: must be aligned to 256 bytes");
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  dedup_cuda(call, memory, x.device_index, stream);
#else
  (void)stream;
#endif
}

}  // namespace

void bind_semdedup_cuda(py::module_& module) {
  module.def("semdedup_cuda_workspace", &dedup_workspace, GilReleased(), "n"_a, "columns"_a, "clusters"_a, "thresholds"_a,
             "keep"_a, "Bytes of workspace that semdedup_cuda needs.");
  module.def("semdedup_cuda", &dedup_on_device, GilReleased(), "x"_a, "rows"_a, "bounds"_a, "keep"_a, "thresholds"_a,
             "found"_a, "workspace"_a, "stream"_a, "Near-duplicates inside clusters on a CUDA device.");
}

}  // namespace adaptinf
