// assign_cuda and rows_cuda of csrc/kmeans on the CPU: reads a fit from a file, and writes what they find of its rows to
// another: the m nearest clusters, and extremes and sums by the scales of its sums and of its inertia. With a single problem
// also all distances, without a limit and with the distances found first.
#include "kmeans/assign_cuda.h"
#include "kmeans/rows_cuda.h"
#include "kmeans_input.h"

using namespace adaptinf;
using namespace adaptinf::kmeans;

using cuda_shim::Buffer;

int main(int argc, char** argv) {
  std::FILE* in = cuda_shim::begin(argc, argv);
  const FitInput input = read_fit(in);
  const CudaFit& fit = input.fit;
  const int64_t cells = fit.problems * fit.columns, m = input.m;
  const Buffer<int64_t> bounds(fit.problems + 1, nullptr), bad(fit.problems, nullptr), sums(cells, nullptr);
  const Buffer<int64_t> squares(fit.problems, nullptr), ids(fit.n * m, nullptr);
  const Buffer<double> low(cells, nullptr), high(cells, nullptr), distances(fit.n * m, nullptr);
  std::fill_n(low.data, cells, INFINITY), std::fill_n(high.data, cells, -INFINITY);
  std::fill_n(bad.data, fit.problems, -1);
  std::fill_n(sums.data, cells, 0), std::fill_n(squares.data, fit.problems, 0);

  const CudaAssign call{fit, m, ids.data, distances.data};
  const Buffer<char> workspace(cuda_assign_workspace(call), nullptr);
  assign_cuda(call, workspace.data, 0, 0);
  CudaFit rows = fit;
  rows.cu_clusters = nullptr;
  extremes_cuda(rows, bounds.data, low.data, high.data, bad.data, 0, 0);
  column_sums_cuda(rows, bounds.data, fit.sum_scale, sums.data, 0, 0);
  square_sums_cuda(rows, bounds.data, fit.inertia_scale, squares.data, 0, 0);
  std::FILE* out = cuda_shim::output(argv);
  ids.write(out), distances.write(out), low.write(out), high.write(out), bad.write(out), sums.write(out), squares.write(out);

  if (fit.problems == 1) {
    const Buffer<double> centroids(fit.clusters * fit.columns, nullptr), found(fit.n * fit.clusters, nullptr);
    const Buffer<double> limit(fit.n, nullptr), limited(fit.n * fit.clusters, nullptr);
    std::copy_n(fit.centroids, fit.clusters * fit.columns, centroids.data);
    for (int64_t row = 0; row < fit.n; ++row) limit.data[row] = distances.data[row * m];
    distances_cuda(rows, bounds.data, centroids.data, fit.clusters, nullptr, found.data, 0, 0);
    distances_cuda(rows, bounds.data, centroids.data, fit.clusters, limit.data, limited.data, 0, 0);
    found.write(out), limited.write(out);
  }
  cuda_shim::end(out);
}
