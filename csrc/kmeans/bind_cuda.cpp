// Python's view of the CUDA part of this folder.
#include <algorithm>
#include <optional>

#include "../binding.h"
#include "../common/device_arguments.h"
#include "fit_cuda.h"

namespace adaptinf {
namespace {

using namespace kmeans;

constexpr int64_t kMaxRows = int64_t{1} << 40, kMaxColumns = int64_t{1} << 20, kMaxClusters = int64_t{1} << 30;

// Problems that a block has to itself for all iterations; where that stops to pay was not measured on a GPU.
constexpr int64_t kAloneRows = 4096, kAloneClusters = 256;

int64_t fit_workspace(int64_t n, int64_t columns, int64_t clusters, int64_t problems, bool spherical, bool fast) {
  for (const auto& [size, limit] :
       {std::pair{n, kMaxRows}, {columns, kMaxColumns}, {clusters, kMaxClusters}, {problems, kMaxClusters}})
    if (size < 0 || size > limit) fail("workspace: a size is negative or beyond its limit");
#if ADAPTINF_HAS_CUDA
  CudaFit fit{};
  fit.n = n, fit.columns = columns, fit.clusters = clusters, fit.problems = problems;
  fit.spherical = spherical, fit.fast = fast;
  return cuda_fit_workspace(fit);
#else
  (void)spherical, (void)fast;
  no_cuda();
#endif
}

// options: by_inertia, empty (0 keep, 1 farthest, 2 split), spherical, fast. outputs: labels, distances, sums, sizes,
// weights, radii, inertia, n_iter, changed. centroids are where it starts and where it ends.
void fit_on_device(const Arguments& x_arguments, const std::vector<int64_t>& cu_rows,
                   const std::vector<int64_t>& cu_clusters, const Arguments& centroids,
                   const std::optional<Arguments>& weights, const std::vector<Arguments>& frame,
                   const Arguments& threshold, int64_t max_iter, const std::tuple<bool, int64_t, bool, bool>& options,
                   const std::vector<Arguments>& outputs, const Arguments& workspace, uint64_t stream) {
  const TensorView x = checked_view("x", x_arguments, {DType::float32, DType::float16, DType::bfloat16}, 2, Access::read);
  const int64_t n = x.shape[0], columns = x.shape[1], problems = static_cast<int64_t>(cu_rows.size()) - 1;
  if (n > kMaxRows || columns > kMaxColumns) fail("x: more than 2^40 rows or 2^20 columns");
  check_bounds("cu_rows", cu_rows, n);
  if (cu_clusters.size() != cu_rows.size()) fail("cu_clusters: must be as many as cu_rows");
  const int64_t clusters = cu_clusters.back();
  check_bounds("cu_clusters", cu_clusters, clusters);
  if (clusters > kMaxClusters) fail("cu_clusters: more than 2^30 clusters");
  if (frame.size() != 5) fail("frame: must be origin, sum_scale, weight_scale, inertia_scale and rounding");
  if (outputs.size() != 9) fail("outputs: must be nine");
  if (max_iter < 0) fail("max_iter: is negative");
  int64_t most_rows = 0, most_clusters = 0;
  for (int64_t b = 0; b < problems; ++b) {
    const int64_t rows = cu_rows[b + 1] - cu_rows[b], ours = cu_clusters[b + 1] - cu_clusters[b];
    if (rows > 0 && ours == 0) fail("cu_clusters: problem " + std::to_string(b) + " has rows and no clusters");
    most_rows = std::max(most_rows, rows), most_clusters = std::max(most_clusters, ours);
  }
  const auto& [by_inertia, empty, spherical, fast] = options;
  if (empty < 0 || empty > 2) fail("empty: must be 0, 1 or 2");

  DeviceArguments device(x);
  CudaFit fit{};
  fit.rows = x.data, fit.dtype = x.dtype, fit.row_stride = x.strides[0], fit.columns = columns;
  fit.cu_rows = cu_rows.data(), fit.cu_clusters = cu_clusters.data();
  fit.problems = problems, fit.n = n, fit.clusters = clusters, fit.max_iter = max_iter;
  fit.empty = static_cast<EmptyClusters>(empty);
  fit.by_inertia = by_inertia, fit.spherical = spherical, fit.fast = fast;
  fit.alone = most_rows <= kAloneRows && most_clusters <= kAloneClusters;
  if (weights) fit.weights = device.doubles("weights", *weights, {n});
  fit.origin = device.doubles("origin", frame[0], {problems, columns});
  fit.sum_scale = device.doubles("sum_scale", frame[1], {problems});
  fit.weight_scale = device.doubles("weight_scale", frame[2], {problems});
  fit.inertia_scale = device.doubles("inertia_scale", frame[3], {problems});
  fit.rounding = device.doubles("rounding", frame[4], {problems});
  fit.threshold = device.doubles("threshold", threshold, {problems});
  fit.centroids = device.take<float>("centroids", centroids, DType::float32, {clusters, columns}, Access::write);
  fit.labels = device.integers("labels", outputs[0], {n});
  fit.distances = device.take<double>("distances", outputs[1], DType::float64, {n}, Access::write);
  fit.sums = device.integers("sums", outputs[2], {clusters, columns});
  fit.sizes = device.integers("sizes", outputs[3], {clusters});
  fit.cluster_weights = device.integers("weights of clusters", outputs[4], {clusters});
  fit.radii = device.take<double>("radii", outputs[5], DType::float64, {clusters}, Access::write);
  fit.inertia = device.integers("inertia", outputs[6], {problems});
  fit.n_iter = device.integers("n_iter", outputs[7], {problems});
  fit.changed = device.integers("changed", outputs[8], {problems});
  const int64_t bytes = fit_workspace(n, columns, clusters, problems, spherical, fast);
  auto* memory = device.take<int8_t>("workspace", workspace, DType::int8, {bytes}, Access::write);
  if (reinterpret_cast<uint64_t>(memory) % 256 != 0) fail("workspace: must be aligned to 256 bytes");
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  fit_cuda(fit, memory, bytes, x.device_index, stream);
#else
  (void)fit, (void)stream;
#endif
}

}  // namespace

void bind_kmeans_cuda(py::module_& module) {
  module.def("kmeans_fit_cuda_workspace", &fit_workspace, GilReleased(), "n"_a, "columns"_a, "clusters"_a, "problems"_a,
             "spherical"_a, "fast"_a, "Bytes of workspace that kmeans_fit_cuda needs.");
  module.def("kmeans_fit_cuda", &fit_on_device, GilReleased(), "x"_a, "cu_rows"_a, "cu_clusters"_a, "centroids"_a,
             "weights"_a, "frame"_a, "threshold"_a, "max_iter"_a, "options"_a, "outputs"_a, "workspace"_a, "stream"_a,
             "Lloyd's iteration of all problems on a CUDA device.");
}

}  // namespace adaptinf
