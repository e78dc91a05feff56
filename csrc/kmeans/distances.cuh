// Distances of rows from all clusters, in float64 and in the order of lane8: a block meets 16 rows with 16 clusters at a
// time, an octet 4 with 4, so that each number that comes from shared memory serves four times.
#pragma once

#include "fit_state.cuh"

namespace adaptinf::kmeans::cuda {

struct DistancesState : State {
  const double* centroids;  // [clusters, columns]
  int64_t clusters;
  const double* limit;  // [n], or null
  double* found;        // [n, clusters]
};

constexpr int kSide = 4;                // of an octet's tile
constexpr int kTile = kSide * kSide;    // of a block's: its 16 octets are 4 by 4
constexpr int kColumnsAtOnce = 64;
constexpr int kStride = kColumnsAtOnce + kOctet;  // so that octets side by side read other banks
static_assert(kThreads / kOctet == kTile, "an octet for each 4 x 4 of a tile");

struct DistancesShared {
  double rows[kTile][kStride], clusters[kTile][kStride];
  Unit units[kTile];
};

// The last one again where there are no more.
__device__ __forceinline__ int64_t up_to(int64_t index, int64_t count) { return min(index, count - 1); }

inline __device__ void measure_all(const DistancesState& state, const Problem& p, const Team& team,
                                   unsigned char* shared_memory) {
  DistancesShared& shared = *reinterpret_cast<DistancesShared*>(shared_memory);
  const bool spherical = state.fit.spherical;
  const int64_t columns = state.fit.columns;
  const double* const middle = spherical ? nullptr : origin(state, p);
  const int octet = static_cast<int>(threadIdx.x) / kOctet, lane = lane_of_octet();
  for (int64_t first_row = team.block * kTile; first_row < p.rows; first_row += team.blocks * kTile) {
    const int64_t own = up_to(first_row + octet, p.rows);
    if (spherical) {
      const Row x = row_of(state, p, own, Unit{1, 1});
      const Unit unit = unit_of([&](int64_t t) { return x.x(t); }, columns, lane);
      if (lane == 0) shared.units[octet] = unit;
      __syncthreads();
    }
    for (int64_t first_cluster = 0; first_cluster < state.clusters; first_cluster += kTile) {
      double sums[kSide][kSide] = {};
      for (int64_t start = 0; start < columns; start += kColumnsAtOnce) {
        const int width = static_cast<int>(min(static_cast<int64_t>(kColumnsAtOnce), columns - start));
        for (int i = static_cast<int>(threadIdx.x); i < kTile * kColumnsAtOnce; i += kThreads) {
          const int place = i / kColumnsAtOnce, column = i % kColumnsAtOnce;
          if (column >= width) continue;
          const int64_t t = start + column, cluster = up_to(first_cluster + place, state.clusters);
          const Unit unit = spherical ? shared.units[place] : Unit{1, 1};
          shared.rows[place][column] = row_of(state, p, up_to(first_row + place, p.rows), unit)(t);
          const double value = state.centroids[cluster * columns + t];
          shared.clusters[place][column] = spherical ? value : value - middle[t];
        }
        __syncthreads();
        for (int t = lane; t < width; t += kOctet) {
          double y[kSide], c[kSide];
#pragma unroll
          for (int i = 0; i < kSide; ++i) {
            y[i] = shared.rows[octet / kSide * kSide + i][t];
            c[i] = shared.clusters[octet % kSide + i * kSide][t];
          }
#pragma unroll
          for (int r = 0; r < kSide; ++r) {
#pragma unroll
            for (int i = 0; i < kSide; ++i) {
              const double step = y[r] - c[i];
              sums[r][i] = add(sums[r][i], spherical ? multiply(y[r], c[i]) : multiply(step, step));
            }
          }
        }
        __syncthreads();  // the next columns go to the same place
      }
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
#pragma unroll
        for (int i = 0; i < kSide; ++i) {
          const int64_t row = first_row + octet / kSide * kSide + r, cluster = first_cluster + octet % kSide + i * kSide;
          const double total = join_octet(sums[r][i]), distance = spherical ? add(1, -total) : total;
          if (lane != 0 || row >= p.rows || cluster >= state.clusters) continue;
          state.found[row * state.clusters + cluster] =
              state.limit == nullptr ? distance : fmin(state.limit[row], distance);
        }
      }
    }
  }
}

}  // namespace adaptinf::kmeans::cuda
