// fit_cuda of csrc/kmeans on the CPU: reads a fit from a file, writes its results to another.
#include "kmeans_input.h"

using namespace adaptinf;
using namespace adaptinf::kmeans;

using cuda_shim::Buffer;

int main(int argc, char** argv) {
  std::FILE* in = cuda_shim::begin(argc, argv);
  CudaFit fit = read_fit(in).fit;
  const Buffer<int64_t> labels(fit.n, nullptr), sums(fit.clusters * fit.columns, nullptr), sizes(fit.clusters, nullptr);
  const Buffer<int64_t> cluster_weights(fit.clusters, nullptr), inertia(fit.problems, nullptr);
  const Buffer<int64_t> n_iter(fit.problems, nullptr), changed(fit.problems, nullptr);
  const Buffer<double> distances(fit.n, nullptr), radii(fit.clusters, nullptr);
  fit.labels = labels.data, fit.distances = distances.data, fit.sums = sums.data, fit.sizes = sizes.data;
  fit.cluster_weights = cluster_weights.data, fit.radii = radii.data, fit.inertia = inertia.data;
  fit.n_iter = n_iter.data, fit.changed = changed.data;
  const Buffer<char> workspace(cuda_fit_workspace(fit), nullptr);
  fit_cuda(fit, workspace.data, workspace.count, 0, 0);

  std::FILE* out = cuda_shim::output(argv);
  labels.write(out);
  std::fwrite(fit.centroids, sizeof(float), static_cast<size_t>(fit.clusters * fit.columns), out);
  sizes.write(out), cluster_weights.write(out), radii.write(out);
  inertia.write(out), n_iter.write(out), changed.write(out), distances.write(out), sums.write(out);
  cuda_shim::end(out);
}
