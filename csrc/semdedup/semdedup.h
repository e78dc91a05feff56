// Near-duplicates inside clusters; see kernels/adaptinf_kernels/semdedup/README.md. Everything is in terms of places: row
// rows[p] of x is in place p, those of cluster c are in places bounds[c] to bounds[c + 1], in order of rank.
#pragma once

#include <string>
#include <vector>

#include "../common/tensor_view.h"
#include "kernels.h"

namespace adaptinf::semdedup {

struct Problem {
  TensorView x;           // [., d]
  const int64_t* rows;    // [N], each a row of x
  const int64_t* bounds;  // [C + 1], from 0 to N
  int64_t clusters;
};

// Per place; `before` is a place, or -1.
struct Found {
  int8_t* kept;
  int64_t* before;
  double* similarity;  // NaN where nothing comes before
};

struct Machine {
  CpuLevel level;
  const Kernels& kernels;
  int threads;
};

// The largest similarity to a row before, whatever became of that row; a row goes where it exceeds the threshold.
void reference(const Problem& problem, double threshold, Found found, const Machine& machine);

// Only kept rows count as coming before.
void greedy(const Problem& problem, double threshold, Found found, const Machine& machine);

// The same similarity as `reference`; kept is the first of each connected component of the pairs above a threshold, and
// before[p] its place. One `Found` for each threshold.
void components(const Problem& problem, const std::vector<double>& thresholds, const std::vector<Found>& found,
                const Machine& machine);

// Farthest first, budgets[c] rows of cluster c.
void farthest(const Problem& problem, const int64_t* budgets, Found found, const Machine& machine);

// Farthest first over all clusters, `budget` rows in all; ties by ranks [N], which rise inside each cluster.
void farthest_of_all(const Problem& problem, int64_t budget, const int64_t* ranks, Found found, const Machine& machine);

}  // namespace adaptinf::semdedup
