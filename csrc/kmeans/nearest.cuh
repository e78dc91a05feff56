// The m nearest clusters of every row, for m above 1, without a matrix of rows by clusters.
//
// A row's clusters are dealt into 16 groups, whose best screens are found first. The m-th best of these belongs to m clusters
// that are no worse, so no cluster whose screen is more than 2 E worse (README.md of the op) is among the m nearest. The
// rows meet all clusters once more, and those that are left are ranked by their scores in float64.
#pragma once

#include "assign.cuh"

namespace adaptinf::kmeans::cuda {

struct AssignState : State {
  int64_t m;
  int64_t* ids;
  double* found;  // [n, m]: scores while rows are ranked, then distances
};

constexpr int kGroupsOfLane = 4;
constexpr int kGroups = 4 * kGroupsOfLane;  // by the four lanes that have a row

// By the four lanes of a row, with the best screens of four groups each: the m-th best of all, in each of them.
__device__ __forceinline__ float best_of_groups(const float (&best)[kGroupsOfLane], int m) {
  const int lane = lane_of_warp();
  int before[kGroupsOfLane] = {};  // how many come before each of this lane's groups, ties by lane and group
#pragma unroll
  for (int turn = 0; turn < 4; ++turn) {
    const int other_lane = lane ^ turn;
#pragma unroll
    for (int theirs = 0; theirs < kGroupsOfLane; ++theirs) {
      const float other = __shfl_xor_sync(kFullWarp, best[theirs], turn);
#pragma unroll
      for (int mine = 0; mine < kGroupsOfLane; ++mine) {
        const bool earlier = other_lane < lane || (other_lane == lane && theirs < mine);
        before[mine] += other < best[mine] || (other == best[mine] && earlier) ? 1 : 0;
      }
    }
  }
  float bound = -INFINITY;
#pragma unroll
  for (int mine = 0; mine < kGroupsOfLane; ++mine) bound = before[mine] == m - 1 ? best[mine] : bound;
#pragma unroll
  for (int bits = 1; bits < 4; bits *= 2) bound = fmaxf(bound, __shfl_xor_sync(kFullWarp, bound, bits));
  return bound;
}

// Up to which screen a cluster may be among the m nearest, for the rows of a tile.
inline __device__ void bound_tile(const AssignState& state, const Problem& p, int64_t tile, unsigned char* shared) {
  const int lane = lane_of_warp();
  const auto row_index = [&](int row) { return p.first_row + min(tile * kTileRows + row, p.rows - 1); };
  const int64_t place = tile * kTileRows + threadIdx.x;
  if (state.m > kGroups) {
    if (place < p.rows) state.work.candidate_below[p.first_row + place] = INFINITY;
    return;
  }
  float best[4][kGroupsOfLane];  // of rows lane / 4 + 8 s of the warp's
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int group = 0; group < kGroupsOfLane; ++group) best[s][group] = INFINITY;
  for_cluster_tiles(state, p, shared, row_index, [&](int first, const float(&dots)[2][8][4]) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int id = first + n * 8 + lane % 4 * 2 + i;
        const float half = id < p.clusters ? state.work.half_screens[p.first_cluster + id] : INFINITY;
        constexpr int kHalves = kGroupsOfLane / 2;
#pragma unroll
        for (int s = 0; s < 4; ++s) {  // fminf passes over NaN, which an overflow leaves
          float& group = best[s][n % kHalves * 2 + i];
          group = fminf(group, half - dots[s / 2][n][s % 2 * 2 + i]);
        }
      }
    }
  });
  float mine = 0;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const float bound = __shfl_sync(kFullWarp, best_of_groups(best[s], static_cast<int>(state.m)), lane % 8 * 4);
    if (lane / 8 == s) mine = bound;
  }
  const int64_t row = p.first_row + place;
  if (place < p.rows) state.work.candidate_below[row] = __fadd_ru(mine, doubt(state, p, row));
}

// The clusters of a tile's rows that the bounds leave, ranked by their scores.
inline __device__ void rank_tile(const AssignState& state, const Problem& p, int64_t tile, unsigned char* shared) {
  const auto row_index = [&](int row) { return p.first_row + min(tile * kTileRows + row, p.rows - 1); };
  const int64_t row = row_index(static_cast<int>(threadIdx.x));
  int64_t* ids = state.ids + row * state.m;
  double* scores = state.found + row * state.m;
  int64_t count = 0;
  for_candidates(state, p, row_index, row, tile * kTileRows + threadIdx.x < p.rows, shared, [&](int cluster, double score) {
    int64_t place = count;
    while (place > 0 && scores[place - 1] > score) --place;  // equal ones came before, with lower ids
    if (place == state.m) return;
    count = min(count + 1, state.m);
    for (int64_t i = count - 1; i > place; --i) {
      scores[i] = scores[i - 1];
      ids[i] = ids[i - 1];
    }
    scores[place] = score;
    ids[place] = cluster;
  });
}

inline __device__ void measure_found(const AssignState& state, const Problem& p, const Team& team) {
  for_octets(team, p.rows * state.m, [&](int64_t index, bool valid) {
    const int64_t place = p.first_row * state.m + index;
    const double distance = distance_of(state, p, p.first_row + index / state.m, p.first_cluster + state.ids[place]);
    if (valid && lane_of_octet() == 0) state.found[place] = distance;
  });
}

}  // namespace adaptinf::kmeans::cuda
