// fit_cuda of csrc/kmeans on the CPU: reads a fit from a file, writes its results to another.
#include "driver.h"
#include "kmeans/fit_cuda.h"

using namespace adaptinf;
using namespace adaptinf::kmeans;

using cuda_shim::Buffer;

int main(int argc, char** argv) {
  std::FILE* in = cuda_shim::begin(argc, argv);
  const Buffer<int64_t> numbers(16, in);
  const int64_t* number = numbers.data;
  CudaFit fit{};
  fit.dtype = static_cast<DType>(*number++);
  fit.n = *number++;
  fit.columns = *number++;
  fit.row_stride = *number++;
  fit.problems = *number++;
  fit.clusters = *number++;
  fit.max_iter = *number++;
  fit.empty = static_cast<EmptyClusters>(*number++);
  fit.by_inertia = *number++ != 0;
  fit.spherical = *number++ != 0;
  fit.fast = *number++ != 0;
  fit.alone = *number++ != 0;
  const bool weighted = *number++ != 0;
  const int64_t size = fit.dtype == DType::float32 ? 4 : 2;
  const int64_t elements = fit.n == 0 ? 0 : (fit.n - 1) * fit.row_stride + fit.columns;
  const Buffer<char> rows(elements * size, in);
  const Buffer<double> weights(weighted ? fit.n : 0, in);
  const Buffer<int64_t> cu_rows(fit.problems + 1, in), cu_clusters(fit.problems + 1, in);
  const Buffer<double> origin(fit.problems * fit.columns, in), sum_scale(fit.problems, in), weight_scale(fit.problems, in);
  const Buffer<double> inertia_scale(fit.problems, in), rounding(fit.problems, in), threshold(fit.problems, in);
  const Buffer<float> centroids(fit.clusters * fit.columns, in);
  const Buffer<int64_t> labels(fit.n, nullptr), sums(fit.clusters * fit.columns, nullptr), sizes(fit.clusters, nullptr);
  const Buffer<int64_t> cluster_weights(fit.clusters, nullptr), inertia(fit.problems, nullptr);
  const Buffer<int64_t> n_iter(fit.problems, nullptr), changed(fit.problems, nullptr);
  const Buffer<double> distances(fit.n, nullptr), radii(fit.clusters, nullptr);
  fit.rows = rows.data, fit.weights = weighted ? weights.data : nullptr;
  fit.cu_rows = cu_rows.data, fit.cu_clusters = cu_clusters.data, fit.origin = origin.data;
  fit.sum_scale = sum_scale.data, fit.weight_scale = weight_scale.data, fit.inertia_scale = inertia_scale.data;
  fit.rounding = rounding.data, fit.threshold = threshold.data, fit.centroids = centroids.data;
  fit.labels = labels.data, fit.distances = distances.data, fit.sums = sums.data, fit.sizes = sizes.data;
  fit.cluster_weights = cluster_weights.data, fit.radii = radii.data, fit.inertia = inertia.data;
  fit.n_iter = n_iter.data, fit.changed = changed.data;
  const Buffer<char> workspace(cuda_fit_workspace(fit), nullptr);
  fit_cuda(fit, workspace.data, workspace.count, 0, 0);

  std::FILE* out = cuda_shim::output(argv);
  labels.write(out), centroids.write(out), sizes.write(out), cluster_weights.write(out), radii.write(out);
  inertia.write(out), n_iter.write(out), changed.write(out), distances.write(out), sums.write(out);
  cuda_shim::end(out);
}
