// k-means on the CPU: the primitives of kernels/adaptinf_kernels/kmeans/ops.py. Labels, sums and distances are those of its
// reference, bit for bit, on any instruction set and any number of threads.
#pragma once

#include <functional>
#include <vector>

#include "centroids.h"

namespace adaptinf::kmeans {

// How to work: the bfloat16 screen needs has_avx512_bf16() and level avx512.
struct Execution {
  CpuLevel level;
  bool brain;
  int threads;
};

enum class Empty { farthest, split, keep };

struct Options {
  bool by_inertia;
  int64_t max_iter;
  Empty empty;
  bool fast;
};

// What is known of a problem's rows before and after a fit: a centroid [rows], -1 where none is known, an upper bound on
// |x - C| for it and a lower one for all others, those of the state that is started from and then of the last one. Counts
// products of a row with a centroid.
struct Known {
  const int64_t* labels;
  double *upper, *lower;
  int64_t* products;
};

// One problem and the places of its results; rows of all problems lie in one matrix.
struct Problem {
  Rows rows;
  Frame frame;
  const double* weights;  // [rows] or null
  State state;            // from where it starts, and where it ends
  double threshold;
  int64_t* labels;        // [rows]
  int64_t *sizes, *cluster_weights;  // [clusters]
  double* radii;                     // [clusters]
  int64_t *inertia, *n_iter, *changed;
  Known known{};                     // null: nothing is, and nothing is asked for
};

void fit(const std::vector<Problem>& problems, const Options& options, const Execution& how);

// Where one problem starts: `count` of its rows by greedy k-means++.
struct Start {
  Rows rows;
  Frame frame;
  const double* weights;      // [rows] or null
  int64_t count, candidates;  // candidates for each row but the first
  const int64_t* draws;       // [1 + (count - 1) * candidates], from 0 to 2^63 - 1
  int64_t* ids;               // [count]
};

void plus_plus(const std::vector<Start>& starts, const Execution& how);

// Calls one(problem, execution) for each: small problems at the same time on one thread each, the others on all threads.
// starts [problems + 1]: first rows.
void for_each_problem(const std::vector<int64_t>& starts, const Execution& how,
                      const std::function<void(int64_t, const Execution&)>& one);

// Extremes of the columns, low and high [columns], and the first row that is not finite, -1 if none is.
int64_t extremes(const Rows& rows, double* low, double* high, const Execution& how);

// sums [columns] of rint(x * scale), rows taken as they are.
void column_sums(const Rows& rows, double scale, int64_t* sums, const Execution& how);

// out [rows]: a hash of each row's bytes.
void hashes(const Rows& rows, int64_t* out, const Execution& how);

// The sum of rint(lane8(y^2) scale).
int64_t square_sum(const Rows& rows, double scale, const Execution& how);

// out [rows][clusters]; with `limit` [rows] the lesser of it and the distance.
void distances(const Rows& rows, const State& state, const double* limit, double* out, const Execution& how);

// ids and distances [rows][m].
void assign(const Rows& rows, const State& state, int64_t m, bool fast, int64_t* ids, double* distances,
            const Execution& how);

// One problem's rows, labelled and summed: labels, distances [rows]; sums [clusters][columns]; weights and sizes
// [clusters].
struct Accumulated {
  int64_t* labels;
  double* distances;
  int64_t *sums, *weights, *sizes, *inertia;
};
void accumulate(const Rows& rows, const State& state, const double* weights, const Frame& frame, bool fast,
                const Accumulated& out, const Execution& how);

// Shared by the above: the power of two that brings what is screened near 1, and the distance of a row to a centroid.
double screen_scale(const Frame& frame, int64_t columns);
double screen_scale(const State& state, const double* origin, int64_t columns);
inline double distance(const Kernels& kernels, const Rows& rows, const double* y, const double* c) {
  return rows.unit ? 1 - kernels.dot(y, c, rows.padded) : kernels.squared_distance(y, c, rows.padded);
}

}  // namespace adaptinf::kmeans
