// The primitives that go over the rows once.
#include <atomic>
#include <cmath>
#include <mutex>

#include "../common/parallel.h"
#include "assignment.h"
#include "kmeans.h"
#include "sums.h"

namespace adaptinf::kmeans {
namespace {

constexpr int64_t kBlock = 256;  // rows of a task

int64_t tasks_for(int64_t rows, int64_t block) { return (rows + block - 1) / block; }

// A power of two near 1 / value. It is held within bounds in which numbers so small that the squares of the float64 scores
// vanish are packed as zero, so that the scores decide.
double inverse_power(double value) {
  if (!(value > 0)) return 1;
  int exponent;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, std::clamp(-exponent, -400, 400));
}

// The first row from `row` on that is not finite; there must be one.
int64_t first_not_finite(const Rows& rows, int64_t row, const Kernels& kernel, double* y) {
  for (;; ++row) {
    kernel.load(rows, row, y);
    if (!std::all_of(y, y + rows.padded, [](double value) { return std::isfinite(value); })) return row;
  }
}

}  // namespace

void for_each_problem(const std::vector<int64_t>& starts, const Execution& how,
                      const std::function<void(int64_t, const Execution&)>& one) {
  std::vector<int64_t> small;
  for (size_t b = 0; b + 1 < starts.size(); ++b) {
    if ((starts[b + 1] - starts[b]) * 4 * how.threads < starts.back()) small.push_back(static_cast<int64_t>(b));
    else one(static_cast<int64_t>(b), how);
  }
  parallel_for(static_cast<int64_t>(small.size()), how.threads,
               [&](int64_t i) { one(small[static_cast<size_t>(i)], {how.level, how.brain, 1}); });
}

// inertia_scale / weight_scale is 2^-e of 4 d max|y|^2, up to a factor of 2.
double screen_scale(const Frame& frame, int64_t columns) {
  const double farthest = frame.weight_scale / frame.inertia_scale;
  return inverse_power(std::sqrt(farthest / (4.0 * static_cast<double>(std::max<int64_t>(columns, 1)))));
}

double screen_scale(const State& state, const double* origin, int64_t columns) {
  double largest = 0;
  for (int64_t j = 0; j < state.count; ++j)
    for (int64_t t = 0; t < columns; ++t) largest = std::max(largest, std::fabs(state.at(j, t) - origin[t]));
  return inverse_power(largest);
}

int64_t extremes(const Rows& rows, double* low, double* high, const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  std::fill(low, low + rows.columns, std::numeric_limits<double>::infinity());
  std::fill(high, high + rows.columns, -std::numeric_limits<double>::infinity());
  int64_t bad = rows.count;
  std::mutex mutex;
  parallel_for(tasks_for(rows.count, kBlock), how.threads, [&](int64_t task) {
    std::vector<double> y(static_cast<size_t>(rows.padded));
    std::vector<double> least(y.size(), std::numeric_limits<double>::infinity());
    std::vector<double> most(y.size(), -std::numeric_limits<double>::infinity());
    const int64_t first = task * kBlock, last = std::min(rows.count, first + kBlock);
    const bool finite = kernel.extend(rows, first, last, y.data(), least.data(), most.data());
    const int64_t first_bad = finite ? rows.count : first_not_finite(rows, first, kernel, y.data());
    const std::lock_guard<std::mutex> lock(mutex);
    bad = std::min(bad, first_bad);
    for (int64_t t = 0; t < rows.columns; ++t) {
      low[t] = std::min(low[t], least[static_cast<size_t>(t)]);
      high[t] = std::max(high[t], most[static_cast<size_t>(t)]);
    }
  });
  return bad == rows.count ? -1 : bad;
}

void column_sums(const Rows& rows, double scale, int64_t* sums, const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  std::fill(sums, sums + rows.columns, int64_t{0});
  parallel_for(tasks_for(rows.count, kBlock), how.threads, [&](int64_t task) {
    std::vector<double> y(static_cast<size_t>(rows.padded));
    std::vector<int64_t> part(y.size());
    kernel.add_columns(rows, task * kBlock, std::min(rows.count, (task + 1) * kBlock), scale, y.data(), part.data());
    for (int64_t t = 0; t < rows.columns; ++t) __atomic_fetch_add(sums + t, part[static_cast<size_t>(t)], __ATOMIC_RELAXED);
  });
}

void hashes(const Rows& rows, int64_t* out, const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  parallel_for(tasks_for(rows.count, kBlock), how.threads, [&](int64_t task) {
    for (int64_t row = task * kBlock; row < std::min(rows.count, (task + 1) * kBlock); ++row)
      out[row] = static_cast<int64_t>(kernel.hash(rows.at(row), rows.bytes()));
  });
}

int64_t square_sum(const Rows& rows, double scale, const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  std::atomic<int64_t> sum{0};
  parallel_for(tasks_for(rows.count, kBlock), how.threads, [&](int64_t task) {
    std::vector<double> y(static_cast<size_t>(rows.padded));
    int64_t part = 0;
    for (int64_t row = task * kBlock; row < std::min(rows.count, (task + 1) * kBlock); ++row) {
      kernel.load(rows, row, y.data());
      part += std::llrint(kernel.dot(y.data(), y.data(), rows.padded) * scale);
    }
    sum += part;
  });
  return sum;
}

void distances(const Rows& rows, const State& state, const double* limit, double* out, const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  const Packing packing(kernel, rows.columns, 1, false);
  Centroids centroids(kernel, packing, rows, state.count);
  centroids.set(state, how.threads);
  parallel_for(tasks_for(rows.count, kBlock), how.threads, [&](int64_t task) {
    std::vector<double> y(static_cast<size_t>(rows.padded));
    for (int64_t row = task * kBlock; row < std::min(rows.count, (task + 1) * kBlock); ++row) {
      kernel.load(rows, row, y.data());
      for (int64_t j = 0; j < state.count; ++j) {
        const double away = distance(kernel, rows, y.data(), centroids.row(j));
        out[row * state.count + j] = limit == nullptr ? away : std::min(limit[row], away);
      }
    }
  });
}

namespace {

// Labels, or the best m ids, and distances of rows that are packed as they are met.
void assign_packed(const Rows& rows, const Centroids& centroids, const Packing& packing, const Kernels& kernel, int64_t m,
                   int64_t* ids, double* out, int threads) {
  Assignment assignment(kernel, packing, rows, centroids);
  const int64_t block = assignment.block();
  parallel_for(tasks_for(rows.count, block), threads, [&](int64_t task) {
    const int64_t first = task * block, count = std::min(rows.count, first + block) - first;
    const Buffer<uint32_t> words(count * packing.words);
    const Buffer<double> y(rows.padded);
    std::vector<const uint32_t*> packed(static_cast<size_t>(count));
    std::vector<int64_t> numbers(packed.size());
    for (int64_t i = 0; i < count; ++i) {
      uint32_t* place = words.get() + i * packing.words;
      packing.row(rows, first + i, y.get(), place);
      packed[static_cast<size_t>(i)] = place, numbers[static_cast<size_t>(i)] = first + i;
    }
    if (m == 1) {
      const auto loan = assignment.borrow();
      assignment.gather(numbers.data(), packed.data(), count, *loan);
      assignment.label(*loan);
      for (int64_t i = 0; i < count; ++i)
        ids[first + i] = (*loan).found[static_cast<size_t>(i / kernel.tile_rows)].label[i % kernel.tile_rows];
    } else {
      assignment.top(numbers.data(), packed.data(), count, m, ids + first * m);
    }
    for (int64_t i = 0; i < count; ++i) {
      kernel.load(rows, first + i, y.get());
      for (int64_t at = (first + i) * m; at < (first + i + 1) * m; ++at)
        out[at] = distance(kernel, rows, y.get(), centroids.row(ids[at]));
    }
  });
}

}  // namespace

void assign(const Rows& rows, const State& state, int64_t m, bool fast, int64_t* ids, double* distances,
            const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  const Packing packing(kernel, rows.columns, screen_scale(state, rows.origin, rows.columns), fast && m == 1);
  Centroids centroids(kernel, packing, rows, state.count);
  centroids.set(state, how.threads);
  assign_packed(rows, centroids, packing, kernel, m, ids, distances, how.threads);
}

void accumulate(const Rows& rows, const State& state, const double* weights, const Frame& frame, bool fast,
                const Accumulated& out, const Execution& how) {
  const Kernels& kernel = kernels(how.level, how.brain);
  const Packing packing(kernel, rows.columns, screen_scale(frame, rows.columns), fast);
  Centroids centroids(kernel, packing, rows, state.count);
  centroids.set(state, how.threads);
  assign_packed(rows, centroids, packing, kernel, 1, out.labels, out.distances, how.threads);
  std::vector<Move> moves(static_cast<size_t>(rows.count));
  *out.inertia = 0;
  for (int64_t row = 0; row < rows.count; ++row) {
    moves[static_cast<size_t>(row)] = {row, -1, static_cast<int32_t>(out.labels[row])};
    *out.inertia += std::llrint(out.distances[row] * (weights == nullptr ? 1 : weights[row]) * frame.inertia_scale);
  }
  Sums sums(kernel, rows, frame, weights, state.count);
  sums.apply(moves, how.threads);
  for (int64_t j = 0; j < state.count; ++j) std::copy(sums.row(j), sums.row(j) + rows.columns, out.sums + j * rows.columns);
  std::copy(sums.weights().begin(), sums.weights().end(), out.weights);
  std::copy(sums.sizes().begin(), sums.sizes().end(), out.sizes);
}

}  // namespace adaptinf::kmeans
