// What clusters hold of their rows, as integers: the order in which rows come and go changes no bit.
#pragma once

#include <vector>

#include "centroids.h"

namespace adaptinf::kmeans {

// A row that leaves a cluster and joins another; -1 is none.
struct Move {
  int64_t row;
  int32_t from, to;
};

class Sums {
 public:
  // `weights` [rows] or null, which is a weight of 1 each.
  Sums(const Kernels& kernels, const Rows& rows, const Frame& frame, const double* weights, int64_t clusters);

  void apply(const std::vector<Move>& moves, int threads);

  // Sizes and weights alone.
  void count(const std::vector<Move>& moves);

  // The clusters' means become the state's centroids: those without weight keep theirs, and so do sums of zero of unit rows.
  void means(const State& state, int threads) const;

  const int64_t* row(int64_t cluster) const { return sums_.data() + cluster * rows_.padded; }
  const std::vector<int64_t>& weights() const { return weights_; }
  const std::vector<int64_t>& sizes() const { return sizes_; }

 private:
  void apply_in_order(const std::vector<Move>& moves, int threads);
  void add(const Move* moves, int64_t count, int64_t* sums) const;
  void apply_by_cluster(const std::vector<Move>& moves, int threads);
  void apply_run(const int64_t* entries, int64_t count, int64_t cluster, bool shared, double* y, int64_t* local);

  const Kernels& kernels_;
  const Rows& rows_;
  const Frame frame_;
  const double* row_weights_;
  std::vector<int64_t> sums_, weights_, sizes_;
};

// sum_j |new_j - old_j|^2 of two states, clusters added in ascending order; `earlier` [count][columns] holds the old one.
double shift(const Kernels& kernels, const State& state, const double* earlier, int64_t columns);

}  // namespace adaptinf::kmeans
