// Every row's nearest cluster, without a matrix of rows by clusters.
//
// A tile of rows meets tile after tile of clusters in bfloat16 on the tensor cores; each thread keeps the best and the
// second best screen of its rows in registers. A screen is at most E away from the score (README.md of the op), so a best
// that is 2 E better than the second is the label. Other rows are listed and screened once more, gathered in tiles, and
// those clusters whose screen is within 2 E of the best are decided among by their scores in float64.
#pragma once

#include "fit_state.cuh"

namespace adaptinf::kmeans::cuda {

constexpr int kTileRows = kWarps * 32;
constexpr int kTileClusters = 64;
constexpr int kChunk = 64;  // columns that are in shared memory together: 128 bytes of a row
constexpr int kStages = 3;  // chunks on their way or in use
constexpr int kMaxResident = 4;  // chunks of a tile of rows that stay in shared memory for all clusters
constexpr int kRowBytes = kTileRows * kChunk * 2, kClusterBytes = kTileClusters * kChunk * 2;

__host__ __device__ inline int64_t chunks_of(int64_t padded) { return (padded + kChunk - 1) / kChunk; }
__host__ __device__ inline bool rows_stay(int64_t padded) { return chunks_of(padded) <= kMaxResident; }
inline int64_t assign_shared_bytes(int64_t padded) {
  return (rows_stay(padded) ? chunks_of(padded) : kStages) * kRowBytes + kStages * kClusterBytes;
}

// 16 bytes of a row of a chunk; the rows are rotated so that eight rows' same unit lie in different banks.
__device__ __forceinline__ unsigned char* unit_address(unsigned char* chunk, int row, int unit) {
  return chunk + row * (kChunk * 2) + ((unit ^ (row & 7)) << 4);
}

// `tile` rows of a chunk of bfloat16 [.., padded] to shared memory; row r of the tile is row index(r).
template <int kRows, class Index>
__device__ __forceinline__ void copy_chunk(unsigned char* shared, const uint16_t* from, int64_t padded, int64_t chunk,
                                           const Index& index) {
  constexpr int kUnits = kChunk / 8;
  const int units = static_cast<int>(min(static_cast<int64_t>(kUnits), (padded - chunk * kChunk) / 8));
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kUnits; i += kThreads) {
    const int row = i / kUnits, unit = i % kUnits;
    if (unit < units)
      copy_async(unit_address(shared, row, unit), from + index(row) * padded + chunk * kChunk + unit * 8);
  }
}

// Dot products of a warp's 32 rows with the tile's clusters, for one chunk.
__device__ __forceinline__ void multiply_chunk(float (&dots)[2][8][4], unsigned char* rows, unsigned char* clusters,
                                               int steps) {
  const int lane = lane_of_warp(), first = static_cast<int>(threadIdx.x) / kLanes * 32;
#pragma unroll
  for (int step = 0; step < kChunk / 16; ++step) {
    if (step >= steps) break;
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      load_matrices(a[m], unit_address(rows, first + m * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
    for (int pair = 0; pair < kTileClusters / 16; ++pair) {
      uint32_t words[4];
      const int cluster = pair * 16 + (lane & 7) + (lane >> 4) * 8;
      load_matrices(words, unit_address(clusters, cluster, step * 2 + ((lane >> 3) & 1)));
      const uint32_t b[2][2] = {{words[0], words[1]}, {words[2], words[3]}};
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) mma_bf16_16x8x16(dots[m][pair * 2 + half], a[m], b[half]);
    }
  }
}

// Calls each(first cluster of a tile, dots) for all tiles of clusters in ascending order. dots[m][n][i] belongs to row
// m 16 + (i / 2) 8 + lane / 4 of the warp's rows, and to cluster n 8 + (lane % 4) 2 + i % 2 of the tile.
template <class Index, class Each>
__device__ void for_cluster_tiles(const State& state, const Problem& p, unsigned char* shared, const Index& row_index,
                                  const Each& each) {
  const int64_t padded = state.padded, chunks = chunks_of(padded), tiles = (p.clusters + kTileClusters - 1) / kTileClusters;
  const bool stay = rows_stay(padded);
  unsigned char* const rows = shared;
  unsigned char* const clusters = shared + (stay ? chunks : kStages) * kRowBytes;
  const uint16_t* packed = state.work.clusters + p.first_cluster * padded;

  const auto fetch = [&](int64_t step) {
    if (step < tiles * chunks) {
      const int64_t tile = step / chunks, chunk = step % chunks;
      if (!stay || tile == 0)
        copy_chunk<kTileRows>(rows + (stay ? chunk : step % kStages) * kRowBytes, state.work.rows, padded, chunk,
                              row_index);
      copy_chunk<kTileClusters>(clusters + step % kStages * kClusterBytes, packed, padded, chunk, [&](int row) {
        return min(tile * kTileClusters + row, p.clusters - 1);
      });
    }
    commit_copies();  // an empty group where nothing is left, so that the count of groups stays the steps'
  };

  __syncthreads();  // the shared memory may still be read for the rows before
  for (int64_t step = 0; step < kStages - 1; ++step) fetch(step);
  float dots[2][8][4] = {};
  int64_t step = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk, ++step) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this step's chunks are there, and those of the step before have been read
      fetch(step + kStages - 1);
      multiply_chunk(dots, rows + (stay ? chunk : step % kStages) * kRowBytes, clusters + step % kStages * kClusterBytes,
                     static_cast<int>(min(static_cast<int64_t>(kChunk), padded - chunk * kChunk) / 16));
    }
    each(tile * kTileClusters, dots);
#pragma unroll
    for (int i = 0; i < 2 * 8 * 4; ++i) dots[i / 32][i / 4 % 8][i % 4] = 0;
  }
}

// The best screens of a row so far; ids count from zero in the problem.
struct Best {
  float best, second;
  int id;
};

__device__ __forceinline__ void take(Best& row, float screen, int id) {
  row.second = fminf(row.second, fmaxf(row.best, screen));
  row.id = screen < row.best ? id : row.id;
  row.best = fminf(row.best, screen);
}

// Of two halves of the clusters; ties go to the lower id.
__device__ __forceinline__ Best merged(const Best& a, const Best& b) {
  const bool first = a.best < b.best || (a.best == b.best && a.id < b.id);
  return {first ? a.best : b.best, fminf(fminf(a.second, b.second), fmaxf(a.best, b.best)), first ? a.id : b.id};
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

// By a warp whose lanes have a row and its label each (`valid` where there is one): labels them and moves their sums.
__device__ __forceinline__ void label_rows(const State& state, const Problem& p, bool valid, int64_t row, int64_t label) {
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

// All rows of a tile by their screens; those that a screen cannot decide are listed.
__device__ void screen_tile(const State& state, const Problem& p, int64_t tile, unsigned char* shared) {
  const int lane = lane_of_warp();
  Best best[4];  // rows lane / 4 + 8 s of the warp's
#pragma unroll
  for (int s = 0; s < 4; ++s) best[s] = {INFINITY, INFINITY, 0};
  const auto row_index = [&](int row) { return p.first_row + min(tile * kTileRows + row, p.rows - 1); };
  for_cluster_tiles(state, p, shared, row_index, [&](int64_t first, const float(&dots)[2][8][4]) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t id = first + n * 8 + lane % 4 * 2 + i;
        const float half = id < p.clusters ? state.work.half_screens[p.first_cluster + id] : INFINITY;
#pragma unroll
        for (int s = 0; s < 4; ++s) take(best[s], half - dots[s / 2][n][s % 2 * 2 + i], static_cast<int>(id));
      }
    }
  });
  Best mine{};  // lane l has row l of the warp's
#pragma unroll
  for (int s = 0; s < 4; ++s) {
#pragma unroll
    for (int bits = 1; bits < 4; bits *= 2)
      best[s] = merged(best[s], {__shfl_xor_sync(kFullWarp, best[s].best, bits),
                                 __shfl_xor_sync(kFullWarp, best[s].second, bits),
                                 __shfl_xor_sync(kFullWarp, best[s].id, bits)});
    const Best other{__shfl_sync(kFullWarp, best[s].best, lane % 8 * 4),
                     __shfl_sync(kFullWarp, best[s].second, lane % 8 * 4), __shfl_sync(kFullWarp, best[s].id, lane % 8 * 4)};
    if (lane / 8 == s) mine = other;
  }
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
  label_rows(state, p, decided, row, mine.id);
}

struct Nearest {
  double score;
  int64_t id;
};

// By a warp whose lanes have a row and its candidates each, bits counted from cluster `first`.
__device__ __forceinline__ void score_candidates(const State& state, const Problem& p, Count candidates, int64_t first,
                                                 int64_t row, Nearest& nearest) {
  const int lane = lane_of_warp(), octet = lane / kOctet;
  for (unsigned rows = __ballot_sync(kFullWarp, candidates != 0); rows != 0; rows &= rows - 1) {
    const int owner = __ffs(static_cast<int>(rows)) - 1;
    const Row y = row_of(state, p, __shfl_sync(kFullWarp, row, owner));
    Count rest = __shfl_sync(kFullWarp, candidates, owner);
    while (rest != 0) {  // four at a time, by the octets
      Count ours = rest;
      for (int i = 0; i < octet; ++i) ours &= ours - 1;
      const int64_t id = first + __ffsll(static_cast<long long>(ours != 0 ? ours : rest)) - 1;
      const Cluster c = cluster_of(state, p, p.first_cluster + id);
      double dot = 0;
      for (int64_t t = lane % kOctet; t < state.fit.columns; t += kOctet) dot = add(dot, multiply(y(t), c(t)));
      const double score = state.work.half_squares[p.first_cluster + id] - join_octet(dot);
      for (int from = 0; from < kLanes; from += kOctet) {  // ascending ids, so that ties stay with the lowest
        const double found = __shfl_sync(kFullWarp, score, from);
        const int64_t candidate = __shfl_sync(kFullWarp, id, from);
        if (lane == owner && found < nearest.score) nearest = {found, candidate};
      }
      for (int i = 0; i < kLanes / kOctet; ++i) rest &= rest - 1;
    }
  }
}

// A tile of the undecided rows, by the scores of the clusters that their screens leave.
__device__ void score_tile(const State& state, const Problem& p, int64_t count, int64_t tile, unsigned char* shared) {
  const int lane = lane_of_warp();
  const int64_t* rows = state.work.undecided + p.first_row;
  const auto row_index = [&](int row) { return rows[min(tile * kTileRows + row, count - 1)]; };
  const int64_t place = tile * kTileRows + threadIdx.x, row = row_index(static_cast<int>(threadIdx.x));
  const int first_row = static_cast<int>(threadIdx.x) / kLanes * 32;
  float below[4];
#pragma unroll
  for (int s = 0; s < 4; ++s) below[s] = state.work.candidate_below[row_index(first_row + s * 8 + lane / 4)];
  Nearest nearest{INFINITY, 0};
  for_cluster_tiles(state, p, shared, row_index, [&](int64_t first, const float(&dots)[2][8][4]) {
    Count candidates = 0;  // of the clusters of this tile, for this lane's row
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      Count found = 0;  // for row s 8 + lane / 4
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = n * 8 + lane % 4 * 2 + i;
          if (first + column >= p.clusters) continue;
          const float screen = state.work.half_screens[p.first_cluster + first + column] - dots[s / 2][n][s % 2 * 2 + i];
          if (!(screen > below[s])) found |= Count{1} << column;
        }
      }
      found |= __shfl_xor_sync(kFullWarp, found, 1);
      found |= __shfl_xor_sync(kFullWarp, found, 2);
      const Count other = __shfl_sync(kFullWarp, found, lane % 8 * 4);
      if (lane / 8 == s) candidates = other;
    }
    score_candidates(state, p, place < count ? candidates : 0, first, row, nearest);
  });
  label_rows(state, p, place < count, row, nearest.id);
}

}  // namespace adaptinf::kmeans::cuda
