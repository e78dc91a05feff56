// fit_cuda of csrc/kmeans on the CPU: reads a fit from a file, writes its results to another. Arguments: input, output,
// seed of the schedule, and "file:line" of a place where nobody waits. Prints the places where threads waited.
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "kmeans/fit_cuda.h"

using namespace adaptinf;
using namespace adaptinf::kmeans;

namespace {

// Memory of exactly that size, for the sanitizers to watch; the file's next bytes, or what no result looks like.
template <class T>
struct Buffer {
  Buffer(int64_t count_, std::FILE* file) : count(count_), data(static_cast<T*>(std::aligned_alloc(256, padded(count)))) {
    std::memset(data, 0xff, padded(count));
    if (file != nullptr && std::fread(data, sizeof(T), static_cast<size_t>(count), file) != static_cast<size_t>(count))
      cuda_shim::die("the input is too short");
#if defined(__SANITIZE_ADDRESS__)
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    __asan_poison_memory_region(reinterpret_cast<char*>(data) + bytes, padded(count) - bytes);
#endif
  }
  static size_t padded(int64_t count) { return (static_cast<size_t>(count) * sizeof(T) + 511) / 256 * 256; }
  void write(std::FILE* file) const { std::fwrite(data, sizeof(T), static_cast<size_t>(count), file); }
  int64_t count;
  T* data;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) cuda_shim::die("arguments: input output seed [file:line]");
  cuda_shim::shim.seed = std::stoull(argv[3]);
  if (argc == 5) {  // the first place that is seen gets the first number
    const std::string place(argv[4]);
    const size_t colon = place.rfind(':');
    static const std::string file = place.substr(0, colon);
    cuda_shim::shim.left_out = 0;
    cuda_shim::site("left out", file.c_str(), std::stoi(place.substr(colon + 1)));
  }
  std::FILE* in = std::fopen(argv[1], "rb");
  if (in == nullptr) cuda_shim::die("no input");
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

  std::FILE* out = std::fopen(argv[2], "wb");
  if (out == nullptr) cuda_shim::die("no output");
  labels.write(out), centroids.write(out), sizes.write(out), cluster_weights.write(out), radii.write(out);
  inertia.write(out), n_iter.write(out), changed.write(out), distances.write(out), sums.write(out);
  std::fclose(out);
  for (int i = 0; i < cuda_shim::shim.n_sites; ++i) {
    const cuda_shim::Site& site = cuda_shim::shim.sites[i];
    std::printf("%s %s:%d\n", site.kind, site.file, site.line);
  }
}
