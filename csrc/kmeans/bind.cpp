// Python's view of this folder.
#include <optional>

#include "../binding.h"
#include "kmeans.h"

namespace adaptinf {
namespace {

using namespace kmeans;

constexpr int64_t kMaxClusters = int64_t{1} << 30;
constexpr int64_t kMaxThreads = 4096;
const std::vector<DType> kFloats{DType::float32, DType::float16, DType::bfloat16, DType::float64};

TensorView on_cpu(const char* name, const Arguments& arguments, const std::vector<DType>& allowed, size_t dimensions,
                  Access access) {
  TensorView view = checked_view(name, arguments, allowed, dimensions, access);
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be on the CPU");
  return view;
}

std::string shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// A contiguous tensor of that shape.
template <class T>
T* plain(const char* name, const Arguments& arguments, DType dtype, const std::vector<int64_t>& shape, Access access) {
  const TensorView view = on_cpu(name, arguments, {dtype}, shape.size(), access);
  if (view.shape != shape) fail(std::string(name) + ": must be " + shown(shape) + ", not " + shown(view.shape));
  if (shape.size() == 2 && shape[0] > 1 && shape[1] > 0 && view.strides[0] != shape[1])
    fail(std::string(name) + ": must be contiguous");
  return static_cast<T*>(view.data);
}

template <class T>
T* output(const char* name, const Arguments& arguments, DType dtype, const std::vector<int64_t>& shape) {
  return plain<T>(name, arguments, dtype, shape, Access::write);
}

const double* doubles(const char* name, const Arguments& arguments, const std::vector<int64_t>& shape) {
  return plain<const double>(name, arguments, DType::float64, shape, Access::read);
}

std::vector<int64_t> bounds(const char* name, const Arguments& arguments, int64_t total) {
  const TensorView view = on_cpu(name, arguments, {DType::int64}, 1, Access::read);
  const std::string who(name);
  if (view.shape[0] < 1) fail(who + ": must hold at least one number");
  const auto* from = static_cast<const int64_t*>(view.data);
  std::vector<int64_t> found(from, from + view.shape[0]);
  if (found.front() != 0 || found.back() != total) fail(who + ": must run from 0 to " + std::to_string(total));
  for (size_t i = 1; i < found.size(); ++i)
    if (found[i] < found[i - 1]) fail(who + ": must not fall");
  return found;
}

Execution execution(int64_t threads, const std::string& level_name, const std::string& screen) {
  if (threads < 1 || threads > kMaxThreads) fail("threads: must be from 1 to 4096");
  const CpuLevel level = parse_level(level_name);
  const bool able = level == CpuLevel::avx512 && has_avx512_bf16();
  if (screen != "" && screen != "bfloat16" && screen != "float32")
    fail("screen '" + screen + "': choose from bfloat16, float32, or '' for the faster one");
  if (screen == "bfloat16" && !able) fail("screen 'bfloat16': this processor or cpu_level has no AVX512-BF16");
  return {level, able && screen != "float32", static_cast<int>(threads)};
}

// All rows of a matrix and the origins of its problems, padded.
class Matrix {
 public:
  explicit Matrix(const Arguments& arguments) : view_(on_cpu("x", arguments, kFloats, 2, Access::read)) {}

  int64_t count() const { return view_.shape[0]; }
  int64_t columns() const { return view_.shape[1]; }

  // `origins` [problems, columns] float64, or null for zeros.
  void set_origins(const double* origins, int64_t problems) {
    const int64_t padded = padded_to(columns(), 8);
    origins_.assign(static_cast<size_t>(checked_product(problems, padded, "origin")), 0.0);
    for (int64_t b = 0; origins != nullptr && b < problems; ++b)
      std::copy(origins + b * columns(), origins + (b + 1) * columns(), origins_.begin() + b * padded);
  }

  Rows rows(int64_t problem, int64_t first, int64_t last, bool unit) const {
    const int64_t padded = padded_to(columns(), 8);
    const double* origin = origins_.empty() ? nullptr : origins_.data() + problem * padded;
    const Rows all{view_.data, view_.dtype, view_.strides[0], count(), columns(), padded, origin, unit};
    return all.from(first, last - first);
  }

 private:
  TensorView view_;
  std::vector<double> origins_;
};

// Centroids of all problems, in float64 for rows of float64 or where float64 is all that is allowed.
TensorView centroid_view(const Arguments& arguments, int64_t columns, Access access) {
  TensorView view = on_cpu("centroids", arguments, {DType::float32, DType::float64}, 2, access);
  if (view.shape[1] != columns) fail("centroids: must be [K, d] with the d of x");
  if (view.shape[0] > kMaxClusters) fail("centroids: more than 2^30");
  return view;
}

State state_of(const TensorView& view, int64_t first, int64_t last) {
  const int64_t bytes = (static_cast<int64_t>(view.dtype) & 0xff) / 8;
  if (last <= first) fail("centroids: a problem needs at least one");
  return {static_cast<char*>(view.data) + first * view.strides[0] * bytes, view.dtype, last - first, view.strides[0]};
}

struct Frames {
  const double *sum_scale, *weight_scale, *inertia_scale, *rounding;

  Frames(const std::vector<Arguments>& parts, int64_t problems, int64_t columns, Matrix& x) {
    if (parts.size() != 5) fail("frame: must be origin, sum_scale, weight_scale, inertia_scale and rounding");
    x.set_origins(doubles("origin", parts[0], {problems, columns}), problems);
    sum_scale = doubles("sum_scale", parts[1], {problems});
    weight_scale = doubles("weight_scale", parts[2], {problems});
    inertia_scale = doubles("inertia_scale", parts[3], {problems});
    rounding = doubles("rounding", parts[4], {problems});
  }

  Frame of(int64_t b) const { return {sum_scale[b], weight_scale[b], inertia_scale[b], rounding[b]}; }
};

void bound_extremes(const Arguments& x_arguments, const Arguments& cu_rows, const std::vector<Arguments>& outputs,
                    int64_t threads, const std::string& level) {
  const Execution how = execution(threads, level, "");
  Matrix x(x_arguments);
  const std::vector<int64_t> starts = bounds("cu_rows", cu_rows, x.count());
  const auto problems = static_cast<int64_t>(starts.size()) - 1;
  if (outputs.size() != 3) fail("outputs: must be low, high and bad");
  auto* low = output<double>("low", outputs[0], DType::float64, {problems, x.columns()});
  auto* high = output<double>("high", outputs[1], DType::float64, {problems, x.columns()});
  auto* bad = output<int64_t>("bad", outputs[2], DType::int64, {problems});
  x.set_origins(nullptr, problems);
  for_each_problem(starts, how, [&](int64_t b, const Execution& part) {
    const int64_t first = starts[static_cast<size_t>(b)], last = starts[static_cast<size_t>(b) + 1];
    const int64_t found =
        extremes(x.rows(b, first, last, false), low + b * x.columns(), high + b * x.columns(), part);
    bad[b] = found < 0 ? -1 : first + found;
  });
}

void bound_column_sums(const Arguments& x_arguments, const Arguments& cu_rows, const Arguments& scale_arguments,
                       const Arguments& sums_arguments, int64_t threads, const std::string& level) {
  const Execution how = execution(threads, level, "");
  Matrix x(x_arguments);
  const std::vector<int64_t> starts = bounds("cu_rows", cu_rows, x.count());
  const auto problems = static_cast<int64_t>(starts.size()) - 1;
  const double* scale = doubles("scale", scale_arguments, {problems});
  auto* sums = output<int64_t>("sums", sums_arguments, DType::int64, {problems, x.columns()});
  x.set_origins(nullptr, problems);
  for_each_problem(starts, how, [&](int64_t b, const Execution& part) {
    column_sums(x.rows(b, starts[static_cast<size_t>(b)], starts[static_cast<size_t>(b) + 1], false), scale[b],
                sums + b * x.columns(), part);
  });
}

void bound_hashes(const Arguments& x_arguments, const Arguments& out_arguments, int64_t threads, const std::string& level) {
  const Execution how = execution(threads, level, "");
  Matrix x(x_arguments);
  hashes(x.rows(0, 0, x.count(), false), output<int64_t>("out", out_arguments, DType::int64, {x.count()}), how);
}

void bound_square_sums(const Arguments& x_arguments, const Arguments& cu_rows, const Arguments& origin,
                       const Arguments& scale_arguments, bool spherical, const Arguments& sums_arguments, int64_t threads,
                       const std::string& level) {
  const Execution how = execution(threads, level, "");
  Matrix x(x_arguments);
  const std::vector<int64_t> starts = bounds("cu_rows", cu_rows, x.count());
  const auto problems = static_cast<int64_t>(starts.size()) - 1;
  x.set_origins(doubles("origin", origin, {problems, x.columns()}), problems);
  const double* scale = doubles("scale", scale_arguments, {problems});
  auto* sums = output<int64_t>("sums", sums_arguments, DType::int64, {problems});
  for_each_problem(starts, how, [&](int64_t b, const Execution& part) {
    sums[b] = square_sum(x.rows(b, starts[static_cast<size_t>(b)], starts[static_cast<size_t>(b) + 1], spherical), scale[b],
                         part);
  });
}

void bound_distances(const Arguments& x_arguments, const Arguments& origin, const Arguments& centroids_arguments,
                     const std::optional<Arguments>& limit_arguments, bool spherical, const Arguments& out_arguments, int64_t threads, const std::string& level) {
  const Execution how = execution(threads, level, "");
  Matrix x(x_arguments);
  x.set_origins(doubles("origin", origin, {1, x.columns()}), 1);
  const TensorView centroids = centroid_view(centroids_arguments, x.columns(), Access::read);
  auto* out = output<double>("out", out_arguments, DType::float64, {x.count(), centroids.shape[0]});
  const double* limit = limit_arguments ? doubles("limit", *limit_arguments, {x.count()}) : nullptr;
  distances(x.rows(0, 0, x.count(), spherical), state_of(centroids, 0, centroids.shape[0]), limit, out, how);
}

void bound_assign(const Arguments& x_arguments, const Arguments& cu_rows, const Arguments& cu_clusters,
                  const Arguments& centroids_arguments, const Arguments& origin, int64_t m, bool spherical, bool fast,
                  const Arguments& ids_arguments, const Arguments& distances_arguments, int64_t threads,
                  const std::string& level, const std::string& screen) {
  const Execution how = execution(threads, level, screen);
  Matrix x(x_arguments);
  const TensorView centroids = centroid_view(centroids_arguments, x.columns(), Access::read);
  const std::vector<int64_t> starts = bounds("cu_rows", cu_rows, x.count());
  const std::vector<int64_t> clusters = bounds("cu_clusters", cu_clusters, centroids.shape[0]);
  if (clusters.size() != starts.size()) fail("cu_clusters: must be as long as cu_rows");
  const auto problems = static_cast<int64_t>(starts.size()) - 1;
  x.set_origins(doubles("origin", origin, {problems, x.columns()}), problems);
  for (size_t b = 1; b < clusters.size(); ++b)
    if (m < 1 || m > clusters[b] - clusters[b - 1]) fail("m: must be from 1 to the clusters of each problem");
  auto* ids = output<int64_t>("ids", ids_arguments, DType::int64, {x.count(), m});
  auto* found = output<double>("distances", distances_arguments, DType::float64, {x.count(), m});
  for_each_problem(starts, how, [&](int64_t b, const Execution& part) {
    const auto at = static_cast<size_t>(b);
    assign(x.rows(b, starts[at], starts[at + 1], spherical), state_of(centroids, clusters[at], clusters[at + 1]), m, fast,
           ids + starts[at] * m, found + starts[at] * m, part);
  });
}

void bound_accumulate(const Arguments& x_arguments, const Arguments& centroids_arguments,
                      const std::optional<Arguments>& weights_arguments, const std::vector<Arguments>& frame, bool spherical,
                      bool fast, const std::vector<Arguments>& outputs, int64_t threads, const std::string& level,
                      const std::string& screen) {
  const Execution how = execution(threads, level, screen);
  Matrix x(x_arguments);
  const TensorView centroids = centroid_view(centroids_arguments, x.columns(), Access::read);
  const int64_t k = centroids.shape[0];
  const Frames frames(frame, 1, x.columns(), x);
  const double* weights = weights_arguments ? doubles("weights", *weights_arguments, {x.count()}) : nullptr;
  if (outputs.size() != 6) fail("outputs: must be labels, distances, sums, weights, sizes and inertia");
  const Accumulated out{output<int64_t>("labels", outputs[0], DType::int64, {x.count()}),
                        output<double>("distances", outputs[1], DType::float64, {x.count()}),
                        output<int64_t>("sums", outputs[2], DType::int64, {k, x.columns()}),
                        output<int64_t>("cluster_weights", outputs[3], DType::int64, {k}),
                        output<int64_t>("sizes", outputs[4], DType::int64, {k}),
                        output<int64_t>("inertia", outputs[5], DType::int64, {1})};
  accumulate(x.rows(0, 0, x.count(), spherical), state_of(centroids, 0, k), weights, frames.of(0), fast, out, how);
}

Empty policy(const std::string& name) {
  if (name == "farthest") return Empty::farthest;
  if (name == "split") return Empty::split;
  if (name == "keep") return Empty::keep;
  fail("empty '" + name + "': choose from farthest, split, keep");
}

// labels, upper, lower and products of all problems; nulls where nothing is known. Labels count from zero in each problem.
Known known_rows(const std::optional<std::vector<Arguments>>& known, const std::vector<int64_t>& starts,
                 const std::vector<int64_t>& clusters) {
  if (!known) return {};
  if (known->size() != 4) fail("known: must be labels, upper, lower and products");
  const int64_t rows = starts.back(), problems = static_cast<int64_t>(starts.size()) - 1;
  const auto* labels = plain<const int64_t>("known labels", (*known)[0], DType::int64, {rows}, Access::read);
  for (size_t b = 1; b < starts.size(); ++b)
    for (int64_t row = starts[b - 1]; row < starts[b]; ++row)
      if (labels[row] < -1 || labels[row] >= clusters[b] - clusters[b - 1])
        fail("known labels: " + std::to_string(labels[row]) + " of row " + std::to_string(row) + " is no cluster");
  return {labels, output<double>("known upper", (*known)[1], DType::float64, {rows}),
          output<double>("known lower", (*known)[2], DType::float64, {rows}),
          output<int64_t>("products", (*known)[3], DType::int64, {problems})};
}

void bound_fit(const Arguments& x_arguments, const Arguments& cu_rows, const Arguments& cu_clusters,
               const Arguments& centroids_arguments, const std::optional<Arguments>& weights_arguments,
               const std::vector<Arguments>& frame, const Arguments& threshold_arguments, bool by_inertia, int64_t max_iter,
               const std::string& empty, bool spherical, bool fast, const std::vector<Arguments>& outputs,
               const std::optional<std::vector<Arguments>>& known_arguments, int64_t threads, const std::string& level,
               const std::string& screen) {
  const Execution how = execution(threads, level, screen);
  if (max_iter < 0) fail("max_iter: must not be negative");
  Matrix x(x_arguments);
  const TensorView centroids = centroid_view(centroids_arguments, x.columns(), Access::write);
  const int64_t k = centroids.shape[0];
  const std::vector<int64_t> starts = bounds("cu_rows", cu_rows, x.count());
  const std::vector<int64_t> clusters = bounds("cu_clusters", cu_clusters, k);
  if (clusters.size() != starts.size()) fail("cu_clusters: must be as long as cu_rows");
  const auto count = static_cast<int64_t>(starts.size()) - 1;
  const Frames frames(frame, count, x.columns(), x);
  const double* weights = weights_arguments ? doubles("weights", *weights_arguments, {x.count()}) : nullptr;
  const double* threshold = doubles("threshold", threshold_arguments, {count});
  if (outputs.size() != 7) fail("outputs: must be labels, sizes, weights, radii, inertia, n_iter and changed");
  auto* labels = output<int64_t>("labels", outputs[0], DType::int64, {x.count()});
  auto* sizes = output<int64_t>("sizes", outputs[1], DType::int64, {k});
  auto* cluster_weights = output<int64_t>("cluster_weights", outputs[2], DType::int64, {k});
  auto* radii = output<double>("radii", outputs[3], DType::float64, {k});
  auto* inertia = output<int64_t>("inertia", outputs[4], DType::int64, {count});
  auto* n_iter = output<int64_t>("n_iter", outputs[5], DType::int64, {count});
  auto* changed = output<int64_t>("changed", outputs[6], DType::int64, {count});
  const Known known = known_rows(known_arguments, starts, clusters);
  std::vector<Problem> problems;
  for (int64_t b = 0; b < count; ++b) {
    const auto at = static_cast<size_t>(b);
    const int64_t row = starts[at], cluster = clusters[at];
    problems.push_back({x.rows(b, row, starts[at + 1], spherical), frames.of(b),
                        weights == nullptr ? nullptr : weights + row, state_of(centroids, cluster, clusters[at + 1]),
                        threshold[b], labels + row, sizes + cluster, cluster_weights + cluster, radii + cluster, inertia + b,
                        n_iter + b, changed + b, {}});
    if (known.labels != nullptr)
      problems.back().known = {known.labels + row, known.upper + row, known.lower + row, known.products + b};
  }
  fit(problems, {by_inertia, max_iter, policy(empty), fast}, how);
}

void bound_plus_plus(const Arguments& x_arguments, const Arguments& cu_rows, const Arguments& cu_clusters,
                     const std::optional<Arguments>& weights_arguments, const std::vector<Arguments>& frame,
                     const Arguments& draws_arguments, const Arguments& cu_draws, bool spherical,
                     const Arguments& ids_arguments, int64_t threads, const std::string& level, const std::string& screen) {
  const Execution how = execution(threads, level, screen);
  Matrix x(x_arguments);
  const int64_t k = on_cpu("ids", ids_arguments, {DType::int64}, 1, Access::write).shape[0];
  const int64_t n_draws = on_cpu("draws", draws_arguments, {DType::int64}, 1, Access::read).shape[0];
  const std::vector<int64_t> rows = bounds("cu_rows", cu_rows, x.count()), clusters = bounds("cu_clusters", cu_clusters, k);
  const std::vector<int64_t> first_draws = bounds("cu_draws", cu_draws, n_draws);
  if (clusters.size() != rows.size() || first_draws.size() != rows.size())
    fail("cu_clusters and cu_draws: must be as long as cu_rows");
  const Frames frames(frame, static_cast<int64_t>(rows.size()) - 1, x.columns(), x);
  const double* weights = weights_arguments ? doubles("weights", *weights_arguments, {x.count()}) : nullptr;
  const auto* draws = plain<const int64_t>("draws", draws_arguments, DType::int64, {n_draws}, Access::read);
  if (!std::all_of(draws, draws + n_draws, [](int64_t draw) { return draw >= 0; })) fail("draws: must not be negative");
  auto* ids = output<int64_t>("ids", ids_arguments, DType::int64, {k});
  std::vector<Start> starts;
  for (size_t b = 0; b + 1 < rows.size(); ++b) {
    const int64_t count = clusters[b + 1] - clusters[b], drawn = first_draws[b + 1] - first_draws[b];
    if (count < 1 || count > rows[b + 1] - rows[b]) fail("cu_clusters: a problem has from one cluster to as many as rows");
    const int64_t candidates = count == 1 ? 1 : (drawn - 1) / (count - 1);
    if (candidates < 1 || drawn != 1 + (count - 1) * candidates)
      fail("cu_draws: a problem needs one draw, and as many again for each further cluster");
    starts.push_back({x.rows(static_cast<int64_t>(b), rows[b], rows[b + 1], spherical), frames.of(static_cast<int64_t>(b)),
                      weights == nullptr ? nullptr : weights + rows[b], count, candidates, draws + first_draws[b],
                      ids + clusters[b]});
  }
  plus_plus(starts, how);
}

}  // namespace

void bind_kmeans(py::module_& module) {
  module.def("kmeans_extremes", &bound_extremes, GilReleased(), "x"_a, "cu_rows"_a, "outputs"_a, "threads"_a,
             "cpu_level"_a = "", "Fill outputs (low, high float64 [B, d], bad int64 [B]); CPU.");
  module.def("kmeans_column_sums", &bound_column_sums, GilReleased(), "x"_a, "cu_rows"_a, "scale"_a, "sums"_a, "threads"_a,
             "cpu_level"_a = "", "Fill sums int64 [B, d] with sums of rint(x * scale); CPU.");
  module.def("kmeans_hashes", &bound_hashes, GilReleased(), "x"_a, "out"_a, "threads"_a, "cpu_level"_a = "",
             "Fill out int64 [N] with hashes of the rows' bytes; CPU.");
  module.def("kmeans_square_sums", &bound_square_sums, GilReleased(), "x"_a, "cu_rows"_a, "origin"_a, "scale"_a,
             "spherical"_a, "sums"_a, "threads"_a, "cpu_level"_a = "", "Fill sums int64 [B] with sums of rint(|y|^2 scale); CPU.");
  module.def("kmeans_distances", &bound_distances, GilReleased(), "x"_a, "origin"_a, "centroids"_a, "limit"_a, "spherical"_a,
             "out"_a, "threads"_a, "cpu_level"_a = "", "Fill out float64 [N, K]; CPU.");
  module.def("kmeans_assign", &bound_assign, GilReleased(), "x"_a, "cu_rows"_a, "cu_clusters"_a, "centroids"_a, "origin"_a,
             "m"_a, "spherical"_a, "fast"_a, "ids"_a, "distances"_a, "threads"_a, "cpu_level"_a = "", "screen"_a = "",
             "Fill ids int64 and distances float64 [N, m]; CPU.");
  module.def("kmeans_accumulate", &bound_accumulate, GilReleased(), "x"_a, "centroids"_a, "weights"_a, "frame"_a,
             "spherical"_a, "fast"_a, "outputs"_a, "threads"_a, "cpu_level"_a = "", "screen"_a = "",
             "Fill outputs (labels, distances, sums, weights, sizes, inertia); CPU.");
  module.def("kmeans_plus_plus", &bound_plus_plus, GilReleased(), "x"_a, "cu_rows"_a, "cu_clusters"_a, "weights"_a,
             "frame"_a, "draws"_a, "cu_draws"_a, "spherical"_a, "ids"_a, "threads"_a, "cpu_level"_a = "", "screen"_a = "",
             "Fill ids int64 [sum K] with rows, counted in each problem, by greedy k-means++ from draws of 63 bits; CPU.");
  module.def("kmeans_fit", &bound_fit, GilReleased(), "x"_a, "cu_rows"_a, "cu_clusters"_a, "centroids"_a, "weights"_a,
             "frame"_a, "threshold"_a, "by_inertia"_a, "max_iter"_a, "empty"_a, "spherical"_a, "fast"_a, "outputs"_a,
             "known"_a, "threads"_a, "cpu_level"_a = "", "screen"_a = "",
             "Lloyd's iteration from centroids, which end as the last ones; fill outputs (labels, sizes, weights, radii, "
             "inertia, n_iter, changed). known (labels, upper, lower, products) or None: what is known of the rows, and "
             "then of the last centroids; CPU.");
}

}  // namespace adaptinf
