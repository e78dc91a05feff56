// Connected components of the pairs of rows above each of some thresholds: trees whose parents only move towards the root,
// which is the first row of its component, so that neither the order of pairs nor a race matters.
#pragma once

#include "../common/cuda_screen.cuh"
#include "dedup_state.cuh"

namespace adaptinf::semdedup::cuda {

__device__ __forceinline__ int* parents_of(const State& s, const Cluster& c, int64_t result) {
  return s.work.parents + result * s.n + c.first;
}

__device__ void clear_components(const State& s, const Cluster& c, const Team& team) {
  for (int64_t result = 0; result < s.results; ++result)
    for (int64_t row = team.thread(); row < distinct_of(s, c); row += team.threads())
      parents_of(s, c, result)[row] = static_cast<int>(row);
}

__device__ __forceinline__ int root_of(const State& s, const Cluster& c, int64_t result, int row) {
  int* parents = parents_of(s, c, result);
  for (;;) {
    const int parent = load_relaxed(parents + row), above = load_relaxed(parents + parent);
    if (parent == above) return parent;
    atomicMin(parents + row, above);
    row = above;
  }
}

__device__ __forceinline__ void join(const State& s, const Cluster& c, int64_t result, int a, int b) {
  for (;;) {
    a = root_of(s, c, result, a);
    b = root_of(s, c, result, b);
    if (a == b) return;
    const int low = min(a, b), high = max(a, b);
    if (atomicCAS(parents_of(s, c, result) + high, high, low) == high) return;  // it was still a root
  }
}

// By a warp whose lanes have a row and sets of rows each, bits counted from row `first`: those surely above the threshold
// are joined, those perhaps above it where their similarity is.
__device__ __forceinline__ void join_bits(const State& s, const Cluster& c, int64_t result, int row, int first, Count surely,
                                          Count perhaps) {
  const auto all = [](Count bits, const auto& each) {
    for (; bits != 0; bits &= bits - 1) each(__ffsll(static_cast<long long>(bits)) - 1);
  };
  all(surely, [&](int bit) { join(s, c, result, row, first + bit); });
  Count open = 0;
  all(perhaps, [&](int bit) {
    if (root_of(s, c, result, row) != root_of(s, c, result, first + bit)) open |= Count{1} << bit;
  });
  const auto exact = [&](int owner, int bit) {
    return similarity(s, unit_of(s, c, __shfl_sync(kFullWarp, row, owner)), unit_of(s, c, first + bit));
  };
  const double threshold = s.work.thresholds[result];
  score_bits(open, exact, [&](int bit, double found) {
    if (found > threshold) join(s, c, result, row, first + bit);
  });
}

// Which screens of a lane's four rows may be above a threshold; lane l gives row l of the warp's.
template <bool kJoins>
struct Joins {
  __device__ Joins(const State&, const Cluster&, int) {}
  __device__ bool near(int, float) const { return false; }
};

template <>
struct Joins<true> {
  __device__ Joins(const State& s, const Cluster& c, int row) {
    const Doubt doubt = doubt_of(s, c, row);
    float mine = -INFINITY;
    for (int64_t result = 0; result < s.results; ++result) mine = fmaxf(mine, doubt.perhaps_above(s.work.thresholds[result]));
    of_four_rows(mine, widest);
  }
  __device__ bool near(int g, float screen) const { return screen <= widest[g]; }

  float widest[4];
};

}  // namespace adaptinf::semdedup::cuda
