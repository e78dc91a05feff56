// Lloyd's iteration of one problem, and of many.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "../common/parallel.h"
#include "bounds.h"
#include "kmeans.h"
#include "refill.h"
#include "sums.h"

namespace adaptinf::kmeans {
namespace {

constexpr int64_t kBlock = 512;  // rows of a task that goes over all of them

int64_t tasks_for(int64_t rows, int64_t block) { return (rows + block - 1) / block; }

class Lloyd {
 public:
  Lloyd(const Problem& problem, const Options& options, const Execution& how)
      : problem_(problem), options_(options), threads_(how.threads), rows_(problem_.rows),
        kernels_(kernels(how.level, how.brain)),
        packing_(kernels_, rows_.columns, screen_scale(problem.frame, rows_.columns)),
        centroids_(kernels_, packing_, rows_, problem.state.count, options.fast),
        assignment_(kernels_, packing_, rows_, centroids_, options.fast),
        sums_(kernels_, rows_, problem_.frame, problem.weights, problem.state.count), bounds_(rows_, rows_.unit),
        packed_(rows_.count * packing_.words), active_(rows_.count) {}

  void run() {
    pack();
    centroids_.set(problem_.state, threads_);
    std::fill(problem_.labels, problem_.labels + rows_.count, int64_t{-1});
    for (int64_t row = 0; row < rows_.count; ++row) active_[row] = row;
    assign(rows_.count);
    int64_t n_iter = 0, changed = 0, inertia = options_.by_inertia ? measure(nullptr, nullptr) : 0;
    for (bool settled = false; n_iter < options_.max_iter && !settled; ++n_iter) {
      sums_.apply(moves_, threads_);
      const double moved = update();
      assign(select());
      changed = static_cast<int64_t>(moves_.size());
      if (options_.by_inertia) {
        const int64_t before = inertia;
        inertia = measure(nullptr, nullptr);
        settled = changed == 0 || static_cast<double>(before - inertia) <= problem_.threshold * static_cast<double>(before);
      } else {
        settled = changed == 0 || moved <= problem_.threshold;
      }
    }
    sums_.count(moves_);
    std::copy(sums_.sizes().begin(), sums_.sizes().end(), problem_.sizes);
    std::copy(sums_.weights().begin(), sums_.weights().end(), problem_.cluster_weights);
    *problem_.inertia = measure(nullptr, problem_.radii), *problem_.n_iter = n_iter, *problem_.changed = changed;
  }

 private:
  uint32_t* packed(int64_t row) const { return packed_.get() + row * packing_.words; }

  void pack() {
    parallel_for(tasks_for(rows_.count, kBlock), threads_, [&](int64_t task) {
      const Buffer<double> y(rows_.padded);
      for (int64_t row = task * kBlock; row < std::min(rows_.count, (task + 1) * kBlock); ++row) {
        kernels_.load(rows_, row, y.get());
        bounds_.set_norm(row, packing_.row(y.get(), options_.fast, packed(row)));
      }
    });
    bounds_.close(rows_.count);
  }

  // Labels the first `count` active rows; moves_ are those whose label is another.
  void assign(int64_t count) {
    const int64_t block = assignment_.block(), tasks = tasks_for(count, block);
    std::vector<std::vector<Move>> found(static_cast<size_t>(tasks));
    parallel_for(tasks, threads_, [&](int64_t task) {
      const int64_t* ids = active_.get() + task * block;
      const int64_t rows = std::min(block, count - task * block);
      std::vector<const uint32_t*> words(static_cast<size_t>(rows));
      std::vector<Screened> screened(words.size());
      for (int64_t i = 0; i < rows; ++i) words[static_cast<size_t>(i)] = packed(ids[i]);
      assignment_.label(ids, words.data(), rows, screened.data());
      std::vector<Move>& moves = found[static_cast<size_t>(task)];
      for (int64_t i = 0; i < rows; ++i) {
        const Screened& one = screened[static_cast<size_t>(i)];
        int64_t& label = problem_.labels[ids[i]];
        if (label != one.label) moves.push_back({ids[i], static_cast<int32_t>(label), static_cast<int32_t>(one.label)});
        label = one.label;
        bounds_.set(ids[i], one, centroids_);
      }
    });
    moves_.clear();
    for (const auto& part : found) moves_.insert(moves_.end(), part.begin(), part.end());
  }

  // New centroids from the sums; how far they moved by the state's own numbers.
  double update() {
    const State& state = problem_.state;
    std::vector<Move> borrowed;
    if (options_.empty != Empty::keep && std::find(sums_.sizes().begin(), sums_.sizes().end(), 0) != sums_.sizes().end()) {
      const Buffer<double> distances(rows_.count);
      measure(distances.get(), nullptr);
      borrowed = refill(options_.empty, problem_, distances.get(), sums_.sizes());
    }
    const Buffer<double> before(state.count * rows_.columns), earlier(state.count * rows_.padded);
    for (int64_t j = 0; j < state.count; ++j) {
      for (int64_t t = 0; t < rows_.columns; ++t) before[j * rows_.columns + t] = state.at(j, t);
      std::copy(centroids_.row(j), centroids_.row(j) + rows_.padded, earlier.get() + j * rows_.padded);
    }
    sums_.apply(borrowed, threads_);
    sums_.means(state, threads_);
    for (Move& move : borrowed) std::swap(move.from, move.to);
    sums_.apply(borrowed, threads_);
    centroids_.set(state, threads_);
    moved_.resize(static_cast<size_t>(state.count));
    centroids_.moved(earlier.get(), moved_.data());
    bounds_.move(moved_.data(), state.count, centroids_);
    return shift(kernels_, state, before.get(), rows_.columns);
  }

  // Gathers the rows whose label may change; how many there are.
  int64_t select() {
    if (options_.fast) return rows_.count;  // all of them since the start: without certificates there are no bounds
    const int64_t tasks = tasks_for(rows_.count, kBlock);
    std::vector<int64_t> counts(static_cast<size_t>(tasks));
    parallel_for(tasks, threads_, [&](int64_t task) {
      int64_t* to = active_.get() + task * kBlock;
      for (int64_t row = task * kBlock; row < std::min(rows_.count, (task + 1) * kBlock); ++row)
        if (!bounds_.keeps(row, problem_.labels[row])) *to++ = row;
      counts[static_cast<size_t>(task)] = to - active_.get() - task * kBlock;
    });
    int64_t count = 0;
    for (int64_t task = 0; task < tasks; ++task) {
      const int64_t* from = active_.get() + task * kBlock;
      std::copy(from, from + counts[static_cast<size_t>(task)], active_.get() + count);
      count += counts[static_cast<size_t>(task)];
    }
    return count;
  }

  // The integer inertia; distances [rows] and radii [clusters] where they are wanted.
  int64_t measure(double* distances, double* radii) {
    if (radii != nullptr) std::fill(radii, radii + problem_.state.count, 0.0);
    std::atomic<int64_t> inertia{0};
    parallel_for(tasks_for(rows_.count, kBlock), threads_, [&](int64_t task) {
      const Buffer<double> y(rows_.padded);
      int64_t part = 0;
      for (int64_t row = task * kBlock; row < std::min(rows_.count, (task + 1) * kBlock); ++row) {
        const int64_t label = problem_.labels[row];
        kernels_.load(rows_, row, y.get());
        const double away = distance(kernels_, rows_, y.get(), centroids_.row(label));
        const double weight = problem_.weights == nullptr ? 1 : problem_.weights[row];
        part += std::llrint(away * weight * problem_.frame.inertia_scale);
        if (distances != nullptr) distances[row] = away;
        if (radii != nullptr) raise(radii + label, away);
      }
      inertia += part;
    });
    return inertia;
  }

  static void raise(double* largest, double value) {
    double seen;
    __atomic_load(largest, &seen, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange(largest, &seen, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }

  const Problem problem_;
  const Options options_;
  const int threads_;
  const Rows& rows_;
  const Kernels& kernels_;
  const Packing packing_;
  Centroids centroids_;
  Assignment assignment_;
  Sums sums_;
  Bounds bounds_;
  Buffer<uint32_t> packed_;
  Buffer<int64_t> active_;
  std::vector<Move> moves_;
  std::vector<float> moved_;
};

}  // namespace

void fit(const std::vector<Problem>& problems, const Options& options, const Execution& how) {
  std::vector<int64_t> starts{0};
  for (const Problem& one : problems) starts.push_back(starts.back() + one.rows.count);
  for_each_problem(starts, how, [&](int64_t b, const Execution& part) {
    Lloyd(problems[static_cast<size_t>(b)], options, part).run();
  });
}

}  // namespace adaptinf::kmeans
