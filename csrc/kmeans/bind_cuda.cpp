// Python's view of the CUDA part of this folder.
#include <algorithm>
#include <optional>

#include "../binding.h"
#include "../common/device_arguments.h"
#include "assign_cuda.h"
#include "rows_cuda.h"

namespace adaptinf {
namespace {

using namespace kmeans;

constexpr int64_t kMaxRows = int64_t{1} << 40, kMaxColumns = int64_t{1} << 20, kMaxClusters = int64_t{1} << 30;

// Problems that a block has to itself for all iterations; where that stops to pay was not measured on a GPU.
constexpr int64_t kAloneRows = 4096, kAloneClusters = 256;

CudaFit fit_of_sizes(int64_t n, int64_t columns, int64_t clusters, int64_t problems, bool spherical, bool fast) {
  for (const auto& [size, limit] :
       {std::pair{n, kMaxRows}, {columns, kMaxColumns}, {clusters, kMaxClusters}, {problems, kMaxClusters}})
    if (size < 0 || size > limit) fail("workspace: a size is negative or beyond its limit");
  CudaFit fit{};
  fit.n = n, fit.columns = columns, fit.clusters = clusters, fit.problems = problems;
  fit.spherical = spherical, fit.fast = fast;
  return fit;
}

int64_t fit_workspace(int64_t n, int64_t columns, int64_t clusters, int64_t problems, bool spherical, bool fast) {
  [[maybe_unused]] const CudaFit fit = fit_of_sizes(n, columns, clusters, problems, spherical, fast);
#if ADAPTINF_HAS_CUDA
  return cuda_fit_workspace(fit);
#else
  no_cuda();
#endif
}

int64_t assign_workspace(int64_t n, int64_t columns, int64_t clusters, int64_t problems, int64_t m, bool spherical,
                         bool fast) {
  if (m < 1 || m > kMaxClusters) fail("m: must be from 1 to 2^30");
  [[maybe_unused]] const CudaAssign call{fit_of_sizes(n, columns, clusters, problems, spherical, fast), m, nullptr, nullptr};
#if ADAPTINF_HAS_CUDA
  return cuda_assign_workspace(call);
#else
  no_cuda();
#endif
}

int64_t most(const std::vector<int64_t>& bounds) {
  int64_t found = 0;
  for (size_t b = 0; b + 1 < bounds.size(); ++b) found = std::max(found, bounds[b + 1] - bounds[b]);
  return found;
}

TensorView rows_view(const Arguments& arguments) {
  TensorView x = checked_view("x", arguments, {DType::float32, DType::float16, DType::bfloat16}, 2, Access::read);
  if (x.shape[0] > kMaxRows || x.shape[1] > kMaxColumns) fail("x: more than 2^40 rows or 2^20 columns");
  return x;
}

// A fit that knows its rows and which problems they belong to.
CudaFit fit_of_rows(const TensorView& x, const std::vector<int64_t>& cu_rows) {
  check_bounds("cu_rows", cu_rows, x.shape[0]);
  CudaFit fit{};
  fit.rows = x.data, fit.dtype = x.dtype, fit.row_stride = x.strides[0], fit.columns = x.shape[1], fit.n = x.shape[0];
  fit.cu_rows = cu_rows.data(), fit.problems = static_cast<int64_t>(cu_rows.size()) - 1;
  return fit;
}

// And the clusters of each problem; `least` where a problem has rows.
void take_clusters(CudaFit& fit, const std::vector<int64_t>& cu_clusters, int64_t least) {
  if (static_cast<int64_t>(cu_clusters.size()) != fit.problems + 1) fail("cu_clusters: must be as many as cu_rows");
  const int64_t clusters = cu_clusters.back();
  check_bounds("cu_clusters", cu_clusters, clusters);
  if (clusters > kMaxClusters) fail("cu_clusters: more than 2^30 clusters");
  for (int64_t b = 0; b < fit.problems; ++b) {
    const std::string who = "cu_clusters: problem " + std::to_string(b);
    const int64_t rows = fit.cu_rows[b + 1] - fit.cu_rows[b], ours = cu_clusters[b + 1] - cu_clusters[b];
    if (rows > 0 && ours == 0) fail(who + " has rows and no clusters");
    if (rows > 0 && ours < least) fail(who + " has fewer than m clusters");
  }
  fit.cu_clusters = cu_clusters.data(), fit.clusters = clusters;
}

int8_t* workspace_of(DeviceArguments& device, const Arguments& workspace, int64_t bytes) {
  auto* memory = device.take<int8_t>("workspace", workspace, DType::int8, {bytes}, Access::write);
  if (reinterpret_cast<uint64_t>(memory) % 256 != 0) fail("workspace: must be aligned to 256 bytes");
  return memory;
}

int64_t* bounds_of(DeviceArguments& device, const Arguments& bounds, const CudaFit& fit) {
  return device.integers("bounds", bounds, {fit.problems + 1});
}

// options: by_inertia, empty (0 keep, 1 farthest, 2 split), spherical, fast. outputs: labels, distances, sums, sizes,
// weights, radii, inertia, n_iter, changed. centroids are where it starts and where it ends.
void fit_on_device(const Arguments& x_arguments, const std::vector<int64_t>& cu_rows,
                   const std::vector<int64_t>& cu_clusters, const Arguments& centroids,
                   const std::optional<Arguments>& weights, const std::vector<Arguments>& frame,
                   const Arguments& threshold, int64_t max_iter, const std::tuple<bool, int64_t, bool, bool>& options,
                   const std::vector<Arguments>& outputs, const Arguments& workspace, uint64_t stream) {
  const TensorView x = rows_view(x_arguments);
  CudaFit fit = fit_of_rows(x, cu_rows);
  take_clusters(fit, cu_clusters, 0);
  const int64_t n = fit.n, columns = fit.columns, problems = fit.problems, clusters = fit.clusters;
  if (frame.size() != 5) fail("frame: must be origin, sum_scale, weight_scale, inertia_scale and rounding");
  if (outputs.size() != 9) fail("outputs: must be nine");
  if (max_iter < 0) fail("max_iter: is negative");
  const auto& [by_inertia, empty, spherical, fast] = options;
  if (empty < 0 || empty > 2) fail("empty: must be 0, 1 or 2");

  DeviceArguments device(x);
  fit.max_iter = max_iter;
  fit.empty = static_cast<EmptyClusters>(empty);
  fit.by_inertia = by_inertia, fit.spherical = spherical, fit.fast = fast;
  fit.alone = most(cu_rows) <= kAloneRows && most(cu_clusters) <= kAloneClusters;
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
  [[maybe_unused]] int8_t* memory = workspace_of(device, workspace, bytes);
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  fit_cuda(fit, memory, bytes, x.device_index, stream);
#else
  (void)stream;
#endif
}

// ids and distances [n, m].
void assign_on_device(const Arguments& x_arguments, const std::vector<int64_t>& cu_rows,
                      const std::vector<int64_t>& cu_clusters, const Arguments& centroids, const Arguments& origin,
                      const std::tuple<bool, bool>& options, const Arguments& ids, const Arguments& distances,
                      const Arguments& workspace, uint64_t stream) {
  const TensorView x = rows_view(x_arguments);
  const TensorView found = checked_view("ids", ids, {DType::int64}, 2, Access::write);
  CudaAssign call{fit_of_rows(x, cu_rows), found.shape[1], nullptr, nullptr};
  CudaFit& fit = call.fit;
  take_clusters(fit, cu_clusters, call.m);
  std::tie(fit.spherical, fit.fast) = options;
  DeviceArguments device(x);
  fit.centroids = const_cast<float*>(device.take<const float>("centroids", centroids, DType::float32,
                                                              {fit.clusters, fit.columns}, Access::read));
  fit.origin = device.doubles("origin", origin, {fit.problems, fit.columns});
  call.ids = device.integers("ids", ids, {fit.n, call.m});
  call.distances = device.take<double>("distances", distances, DType::float64, {fit.n, call.m}, Access::write);
  const int64_t bytes =
      assign_workspace(fit.n, fit.columns, fit.clusters, fit.problems, call.m, fit.spherical, fit.fast);
  [[maybe_unused]] int8_t* memory = workspace_of(device, workspace, bytes);
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  assign_cuda(call, memory, x.device_index, stream);
#else
  (void)stream;
#endif
}

// low and high hold +inf and -inf, bad -1 before.
void extremes_on_device(const Arguments& x_arguments, const std::vector<int64_t>& cu_rows, const Arguments& bounds,
                        const Arguments& low, const Arguments& high, const Arguments& bad, uint64_t stream) {
  const TensorView x = rows_view(x_arguments);
  const CudaFit fit = fit_of_rows(x, cu_rows);
  DeviceArguments device(x);
  const std::vector<int64_t> shape{fit.problems, fit.columns};
  [[maybe_unused]] int64_t* copy = bounds_of(device, bounds, fit);
  [[maybe_unused]] auto* lows = device.take<double>("low", low, DType::float64, shape, Access::write);
  [[maybe_unused]] auto* highs = device.take<double>("high", high, DType::float64, shape, Access::write);
  [[maybe_unused]] int64_t* rows = device.integers("bad", bad, {fit.problems});
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  extremes_cuda(fit, copy, lows, highs, rows, x.device_index, stream);
#else
  (void)stream;
  no_cuda();
#endif
}

// sums hold zeros before.
void column_sums_on_device(const Arguments& x_arguments, const std::vector<int64_t>& cu_rows, const Arguments& bounds,
                           const Arguments& scale, const Arguments& sums, uint64_t stream) {
  const TensorView x = rows_view(x_arguments);
  const CudaFit fit = fit_of_rows(x, cu_rows);
  DeviceArguments device(x);
  [[maybe_unused]] int64_t* copy = bounds_of(device, bounds, fit);
  [[maybe_unused]] const double* scales = device.doubles("scale", scale, {fit.problems});
  [[maybe_unused]] int64_t* found = device.integers("sums", sums, {fit.problems, fit.columns});
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  column_sums_cuda(fit, copy, scales, found, x.device_index, stream);
#else
  (void)stream;
  no_cuda();
#endif
}

// sums hold zeros before.
void square_sums_on_device(const Arguments& x_arguments, const std::vector<int64_t>& cu_rows, const Arguments& bounds,
                           const Arguments& origin, const Arguments& scale, bool spherical, const Arguments& sums,
                           uint64_t stream) {
  const TensorView x = rows_view(x_arguments);
  CudaFit fit = fit_of_rows(x, cu_rows);
  DeviceArguments device(x);
  fit.origin = device.doubles("origin", origin, {fit.problems, fit.columns}), fit.spherical = spherical;
  [[maybe_unused]] int64_t* copy = bounds_of(device, bounds, fit);
  [[maybe_unused]] const double* scales = device.doubles("scale", scale, {fit.problems});
  [[maybe_unused]] int64_t* found = device.integers("sums", sums, {fit.problems});
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  square_sums_cuda(fit, copy, scales, found, x.device_index, stream);
#else
  (void)stream;
  no_cuda();
#endif
}

// One problem; found [n, clusters].
void distances_on_device(const Arguments& x_arguments, const Arguments& bounds, const Arguments& origin,
                         const Arguments& centroids, const std::optional<Arguments>& limit, bool spherical,
                         const Arguments& found, uint64_t stream) {
  const TensorView x = rows_view(x_arguments);
  const std::vector<int64_t> whole{0, x.shape[0]};
  CudaFit fit = fit_of_rows(x, whole);
  const int64_t clusters = checked_view("centroids", centroids, {DType::float64}, 2, Access::read).shape[0];
  if (clusters > kMaxClusters) fail("centroids: more than 2^30");
  DeviceArguments device(x);
  fit.origin = device.doubles("origin", origin, {1, fit.columns}), fit.spherical = spherical;
  [[maybe_unused]] int64_t* copy = bounds_of(device, bounds, fit);
  [[maybe_unused]] const double* given = device.doubles("centroids", centroids, {clusters, fit.columns});
  [[maybe_unused]] const double* limits = limit ? device.doubles("limit", *limit, {fit.n}) : nullptr;
  [[maybe_unused]] auto* out = device.take<double>("found", found, DType::float64, {fit.n, clusters}, Access::write);
#if ADAPTINF_HAS_CUDA
  device.check_memory();
  distances_cuda(fit, copy, given, clusters, limits, out, x.device_index, stream);
#else
  (void)stream;
  no_cuda();
#endif
}

}  // namespace

void bind_kmeans_cuda(py::module_& module) {
  module.def("kmeans_extremes_cuda", &extremes_on_device, GilReleased(), "x"_a, "cu_rows"_a, "bounds"_a, "low"_a, "high"_a,
             "bad"_a, "stream"_a, "Lowers and raises the extremes of columns, and finds the first bad row of each problem.");
  module.def("kmeans_column_sums_cuda", &column_sums_on_device, GilReleased(), "x"_a, "cu_rows"_a, "bounds"_a, "scale"_a,
             "sums"_a, "stream"_a, "Adds integers of columns to sums.");
  module.def("kmeans_square_sums_cuda", &square_sums_on_device, GilReleased(), "x"_a, "cu_rows"_a, "bounds"_a, "origin"_a,
             "scale"_a, "spherical"_a, "sums"_a, "stream"_a, "Adds integers of squared lengths to sums.");
  module.def("kmeans_distances_cuda", &distances_on_device, GilReleased(), "x"_a, "bounds"_a, "origin"_a, "centroids"_a,
             "limit"_a, "spherical"_a, "found"_a, "stream"_a, "Distances of one problem's rows from all centroids.");
  module.def("kmeans_assign_cuda_workspace", &assign_workspace, GilReleased(), "n"_a, "columns"_a, "clusters"_a,
             "problems"_a, "m"_a, "spherical"_a, "fast"_a, "Bytes of workspace that kmeans_assign_cuda needs.");
  module.def("kmeans_assign_cuda", &assign_on_device, GilReleased(), "x"_a, "cu_rows"_a, "cu_clusters"_a, "centroids"_a,
             "origin"_a, "options"_a, "ids"_a, "distances"_a, "workspace"_a, "stream"_a, "The nearest clusters of rows.");
  module.def("kmeans_fit_cuda_workspace", &fit_workspace, GilReleased(), "n"_a, "columns"_a, "clusters"_a, "problems"_a,
             "spherical"_a, "fast"_a, "Bytes of workspace that kmeans_fit_cuda needs.");
  module.def("kmeans_fit_cuda", &fit_on_device, GilReleased(), "x"_a, "cu_rows"_a, "cu_clusters"_a, "centroids"_a,
             "weights"_a, "frame"_a, "threshold"_a, "max_iter"_a, "options"_a, "outputs"_a, "workspace"_a, "stream"_a,
             "Lloyd's iteration of all problems on a CUDA device.");
}

}  // namespace adaptinf
