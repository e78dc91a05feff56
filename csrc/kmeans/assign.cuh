// Every row's nearest cluster, without a matrix of rows by clusters.
//
// A tile of rows meets tile after tile of clusters in bfloat16 on the tensor cores; each thread keeps the best and the
// second best screen of its rows in registers. A screen is at most E away from the score (README.md of the op), so a best
// that is 2 E better than the second is the label. Other rows are listed and screened once more, gathered in tiles, and
// those clusters whose screen is within 2 E of the best are decided among by their scores in float64.
#pragma once

#include "../common/cuda_screen.cuh"
#include "fit_state.cuh"

namespace adaptinf::kmeans::cuda {

// Calls each(first cluster of a tile, dots) for all tiles of a problem's clusters.
template <class Index, class Each>
__device__ __forceinline__ void for_cluster_tiles(const State& state, const Problem& p, unsigned char* shared,
                                                  const Index& row_index, const Each& each) {
  const uint16_t* clusters = state.work.clusters + p.first_cluster * state.padded;
  const auto same = [](int cluster) { return cluster; };
  for_tiles(state.work.rows, clusters, state.padded, 0, tiles_of(p.clusters), static_cast<int>(p.clusters), shared, row_index,
            same, each);
}

// How much worse than the best a cluster's screen may be where its score is the best: 2 E, rounded upwards.
__device__ __forceinline__ float doubt(const State& state, const Problem& p, int64_t row) {
  const ClusterBounds bounds = state.work.bounds[p.number];
  // Tensor cores add eight products and a sum at a time and cut each off at 2^-23 of the largest.
  const float additions = static_cast<float>(2 * state.padded + 64) * 0x1p-23f;
  const float norm = state.work.row_norm[row];
  float error = __fmul_ru(state.work.row_error[row], bounds.norm);
  error = __fadd_ru(error, __fmul_ru(norm, __fadd_ru(bounds.error, __fmul_ru(additions, bounds.norm))));
  error = __fadd_ru(error, __fmul_ru(bounds.half, 0x1p-21f));
  return __fmul_ru(__fadd_ru(error, 1e-30f), 2.0001f);  // 1e-30: below it products underflow
}

// What becomes of labels, by a warp whose lanes have a row and its label each (`valid` where there is one): sums move too,
struct Relabel {
  __device__ void operator()(const State& state, const Problem& p, bool valid, int64_t row, int64_t label) const {
    const int64_t old = valid ? state.fit.labels[row] : label;
    unsigned changed = __ballot_sync(kFullWarp, old != label);
    if (old != label) state.fit.labels[row] = label;
    if (changed != 0 && lane_of_warp() == 0) add_integer(state.work.relabelled + p.number, __popc(changed));
    for (; changed != 0; changed &= changed - 1) {
      const int lane = __ffs(static_cast<int>(changed)) - 1;
      move_row(state, p, __shfl_sync(kFullWarp, row, lane), __shfl_sync(kFullWarp, old, lane),
               __shfl_sync(kFullWarp, label, lane));
    }
  }
};

// or labels are all that is wanted.
struct Store {
  __device__ void operator()(const State& state, const Problem&, bool valid, int64_t row, int64_t label) const {
    if (valid) state.fit.labels[row] = label;
  }
};

// All rows of a tile by their screens; those that a screen cannot decide are listed.
template <class Take>
__device__ void screen_tile(const State& state, const Problem& p, int64_t tile, const Take& take_labels,
                            unsigned char* shared) {
  const int lane = lane_of_warp();
  Best best[4];  // rows lane / 4 + 8 s of the warp's
#pragma unroll
  for (int s = 0; s < 4; ++s) best[s] = {INFINITY, INFINITY, 0};
  const auto row_index = [&](int row) { return p.first_row + min(tile * kTileRows + row, p.rows - 1); };
  for_cluster_tiles(state, p, shared, row_index, [&](int first, const float(&dots)[2][8][4]) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int id = first + n * 8 + lane % 4 * 2 + i;
        const float half = id < p.clusters ? state.work.half_screens[p.first_cluster + id] : INFINITY;
#pragma unroll
        for (int s = 0; s < 4; ++s) take(best[s], half - dots[s / 2][n][s % 2 * 2 + i], id);
      }
    }
  });
  const Best mine = of_own_row(best);
  const int64_t place = tile * kTileRows + threadIdx.x;
  bool decided = place < p.rows;
  const int64_t row = p.first_row + place;
  if (decided && !state.fit.fast) {
    const float margin = doubt(state, p, row);
    if (!(mine.second - mine.best > margin)) {  // nor is a NaN, which an overflow leaves
      decided = false;
      state.work.candidate_below[row] = __fadd_ru(mine.best, margin);
      const int64_t at = static_cast<int64_t>(
          atomicAdd(reinterpret_cast<Count*>(state.work.undecided_count + p.number), Count{1}));
      state.work.undecided[p.first_row + at] = row;
    }
  }
  take_labels(state, p, decided, row, mine.id);
}

struct Nearest {
  double score;
  int64_t id;
};

// By a warp whose lanes have a row and its candidates each, bits counted from cluster `first`: take(cluster, score), clusters
// ascending.
template <class Take>
__device__ __forceinline__ void score_candidates(const State& state, const Problem& p, Count candidates, int first,
                                                 int64_t row, const Take& take_score) {
  const auto score = [&](int owner, int bit) {
    const int64_t cluster = p.first_cluster + first + bit;
    const Row y = row_of(state, p, __shfl_sync(kFullWarp, row, owner));
    const Cluster c = cluster_of(state, p, cluster);
    double dot = 0;
    for (int64_t t = lane_of_octet(); t < state.fit.columns; t += kOctet) dot = add(dot, multiply(y(t), c(t)));
    return state.work.half_squares[cluster] - join_octet(dot);
  };
  score_bits(candidates, score, [&](int bit, double found) { take_score(first + bit, found); });
}

// By a tile of rows, row_index(0) the first, of which this thread has `row`, if `valid`: take(cluster, score), clusters
// ascending, for all those whose screens do not exclude them.
template <class Index, class Take>
__device__ __forceinline__ void for_candidates(const State& state, const Problem& p, const Index& row_index, int64_t row,
                                               bool valid, unsigned char* shared, const Take& take_score) {
  const int lane = lane_of_warp();
  float below[4];
  of_four_rows(state.work.candidate_below[row], below);
  for_cluster_tiles(state, p, shared, row_index, [&](int first, const float(&dots)[2][8][4]) {
    uint32_t found[4] = {};  // clusters of this tile, for rows s 8 + lane / 4
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = n * 8 + lane % 4 * 2 + i;
          if (first + column >= p.clusters) continue;
          const float screen = state.work.half_screens[p.first_cluster + first + column] - dots[s / 2][n][s % 2 * 2 + i];
          if (!(screen > below[s])) found[s] |= 1u << (n * 2 + i);
        }
      }
    }
    const Count candidates = of_own_row(found);
    score_candidates(state, p, valid ? candidates : 0, first, row, take_score);
  });
}

// A tile of the undecided rows, by the scores of the clusters that their screens leave.
template <class Take>
__device__ void score_tile(const State& state, const Problem& p, int64_t count, int64_t tile, const Take& take_labels,
                           unsigned char* shared) {
  const int64_t* rows = state.work.undecided + p.first_row;
  const auto row_index = [&](int row) { return rows[min(tile * kTileRows + row, count - 1)]; };
  const int64_t place = tile * kTileRows + threadIdx.x, row = row_index(static_cast<int>(threadIdx.x));
  Nearest nearest{INFINITY, 0};
  for_candidates(state, p, row_index, row, place < count, shared, [&](int cluster, double score) {
    if (score < nearest.score) nearest = {score, cluster};  // ties stay with the lowest
  });
  take_labels(state, p, place < count, row, nearest.id);
}

}  // namespace adaptinf::kmeans::cuda
