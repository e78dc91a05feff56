#include "sums.h"

#include <algorithm>
#include <cmath>

#include "../common/parallel.h"

namespace adaptinf::kmeans {
namespace {

constexpr int64_t kEntries = 1024;  // rows that a task adds or subtracts
constexpr int64_t kAhead = 6;       // rows whose memory is asked for before they are added
constexpr int64_t kFewSums = 64 * 1024;  // numbers: half of a second-level cache
constexpr int64_t kClusters = 16;   // clusters whose means a task takes

}  // namespace

Sums::Sums(const Kernels& kernels, const Rows& rows, const Frame& frame, const double* weights, int64_t clusters)
    : kernels_(kernels), rows_(rows), frame_(frame), row_weights_(weights),
      sums_(static_cast<size_t>(clusters * rows.padded)), weights_(static_cast<size_t>(clusters)),
      sizes_(static_cast<size_t>(clusters)) {}

void Sums::count(const std::vector<Move>& moves) {
  for (const Move& move : moves) {
    const int64_t heavy = std::llrint((row_weights_ == nullptr ? 1 : row_weights_[move.row]) * frame_.weight_scale);
    if (move.to >= 0) ++sizes_[static_cast<size_t>(move.to)], weights_[static_cast<size_t>(move.to)] += heavy;
    if (move.from >= 0) --sizes_[static_cast<size_t>(move.from)], weights_[static_cast<size_t>(move.from)] -= heavy;
  }
}

void Sums::apply(const std::vector<Move>& moves, int threads) {
  count(moves);
  if (static_cast<int64_t>(sums_.size()) <= kFewSums) apply_in_order(moves, threads);
  else apply_by_cluster(moves, threads);
}

// Rows are read in the order of memory, and once; tasks that run at a time have sums of their own.
void Sums::apply_in_order(const std::vector<Move>& moves, int threads) {
  const auto total = static_cast<int64_t>(moves.size());
  if (threads == 1 || total < 2 * kEntries) return add(moves.data(), total, sums_.data());
  Pool<std::vector<int64_t>> parts;
  parallel_for((total + kEntries - 1) / kEntries, threads, [&](int64_t task) {
    const auto part = parts.borrow(sums_.size());
    const int64_t first = task * kEntries;
    add(moves.data() + first, std::min(kEntries, total - first), (*part).data());
  });
  parts.each([&](const std::vector<int64_t>& part) {
    for (size_t t = 0; t < sums_.size(); ++t) sums_[t] += part[t];
  });
}

void Sums::add(const Move* moves, int64_t count, int64_t* sums) const {
  const Buffer<double> y(rows_.padded);
  for (int64_t i = 0; i < count; ++i) {
    if (i + kAhead < count) rows_.prefetch(moves[i + kAhead].row);
    const auto [row, from, to] = moves[i];
    const double weight = row_weights_ == nullptr ? 1 : row_weights_[row];
    kernels_.move(rows_, row, weight, frame_.sum_scale, from, to, sums, y.get());
  }
}

// Rows are read cluster by cluster, whose sums stay near.
void Sums::apply_by_cluster(const std::vector<Move>& moves, int threads) {
  // entries of a cluster side by side: 2 * row for one that joins, 2 * row + 1 for one that leaves
  const auto clusters = static_cast<int64_t>(sizes_.size());
  std::vector<int64_t> ends(static_cast<size_t>(clusters) + 1);
  for (const Move& move : moves) {
    if (move.to >= 0) ++ends[static_cast<size_t>(move.to)];
    if (move.from >= 0) ++ends[static_cast<size_t>(move.from)];
  }
  int64_t total = 0;
  for (int64_t& end : ends) {
    const int64_t count = end;
    end = total, total += count;
  }
  std::vector<int64_t> entries(static_cast<size_t>(total));
  for (const Move& move : moves) {
    if (move.to >= 0) entries[static_cast<size_t>(ends[static_cast<size_t>(move.to)]++)] = 2 * move.row;
    if (move.from >= 0) entries[static_cast<size_t>(ends[static_cast<size_t>(move.from)]++)] = 2 * move.row + 1;
  }
  parallel_for((total + kEntries - 1) / kEntries, threads, [&](int64_t task) {
    const Buffer<double> y(rows_.padded);
    std::vector<int64_t> local(static_cast<size_t>(rows_.padded));
    const int64_t first = task * kEntries, last = std::min(total, first + kEntries);
    auto cluster = std::upper_bound(ends.begin(), ends.end(), first) - ends.begin();
    for (int64_t at = first; at < last; ++cluster) {
      const int64_t end = std::min(last, ends[static_cast<size_t>(cluster)]);
      const int64_t begins = cluster == 0 ? 0 : ends[static_cast<size_t>(cluster) - 1];
      const bool shared = begins < first || ends[static_cast<size_t>(cluster)] > last;
      if (at < end) apply_run(entries.data() + at, end - at, cluster, shared, y.get(), local.data());
      at = std::max(at, end);
    }
  });
}

void Sums::apply_run(const int64_t* entries, int64_t count, int64_t cluster, bool shared, double* y, int64_t* local) {
  int64_t* sums = sums_.data() + cluster * rows_.padded;
  int64_t* target = shared ? local : sums;
  if (shared) std::fill(local, local + rows_.padded, int64_t{0});
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = entries[i] / 2;
    if (i + kAhead < count) rows_.prefetch(entries[i + kAhead] / 2);
    const bool joins = entries[i] % 2 == 0;
    const double weight = row_weights_ == nullptr ? 1 : row_weights_[row];
    kernels_.move(rows_, row, weight, frame_.sum_scale, joins ? -1 : 0, joins ? 0 : -1, target, y);
  }
  if (shared)
    for (int64_t t = 0; t < rows_.padded; ++t) __atomic_fetch_add(sums + t, local[t], __ATOMIC_RELAXED);
}

void Sums::means(const State& state, int threads) const {
  parallel_for((state.count + kClusters - 1) / kClusters, threads, [&](int64_t task) {
    const Buffer<double> mean(rows_.padded);
    for (int64_t j = task * kClusters; j < std::min(state.count, (task + 1) * kClusters); ++j) {
      const int64_t* sum = row(j);
      const int64_t heavy = weights_[static_cast<size_t>(j)];
      const bool cancels = std::all_of(sum, sum + rows_.padded, [](int64_t value) { return value == 0; });
      if (heavy == 0 || (rows_.unit && cancels)) continue;
      const double by = static_cast<double>(heavy) / frame_.weight_scale;
      kernels_.mean(sum, frame_.sum_scale, by, mean.get(), rows_.padded);
      if (rows_.unit) kernels_.to_unit(mean.get(), rows_.padded);
      for (int64_t t = 0; t < rows_.columns; ++t) state.put(j, t, rows_.unit ? mean[t] : mean[t] + rows_.origin[t]);
    }
  });
}

double shift(const Kernels& kernels, const State& state, const double* earlier, int64_t columns) {
  const int64_t padded = padded_to(columns, 8);
  const Buffer<double> now(padded), then(padded);
  std::fill(now.get(), now.get() + padded, 0.0);
  std::fill(then.get(), then.get() + padded, 0.0);
  double total = 0;
  for (int64_t j = 0; j < state.count; ++j) {
    for (int64_t t = 0; t < columns; ++t) now[t] = state.at(j, t), then[t] = earlier[j * columns + t];
    total += kernels.squared_distance(now.get(), then.get(), padded);
  }
  return total;
}

}  // namespace adaptinf::kmeans
