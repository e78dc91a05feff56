// Rows against rows in bfloat16 on the tensor cores, a tile of them after the other, without a matrix of all by all: what a
// screen of dot products needs that proves most of them irrelevant.
#pragma once

#include "cuda_team.cuh"

namespace adaptinf::cuda {

constexpr int kTileRows = kWarps * 32;
constexpr int kTileOthers = 64;
constexpr int kChunk = 64;  // columns that are in shared memory together: 128 bytes of a row
constexpr int kStages = 3;  // chunks on their way or in use
constexpr int kMaxResident = 4;  // chunks of a tile of rows that stay in shared memory for all others
constexpr int kRowBytes = kTileRows * kChunk * 2, kOtherBytes = kTileOthers * kChunk * 2;

__host__ __device__ inline int chunks_of(int64_t padded) { return static_cast<int>((padded + kChunk - 1) / kChunk); }
__host__ __device__ inline bool rows_stay(int64_t padded) { return chunks_of(padded) <= kMaxResident; }
inline int64_t screen_shared_bytes(int64_t padded) {
  return (rows_stay(padded) ? chunks_of(padded) : kStages) * kRowBytes + kStages * kOtherBytes;
}

// 16 bytes of a row of a chunk; the rows are rotated so that eight rows' same unit lie in different banks.
__device__ __forceinline__ unsigned char* unit_address(unsigned char* chunk, int row, int unit) {
  return chunk + row * (kChunk * 2) + ((unit ^ (row & 7)) << 4);
}

// `tile` rows of a chunk of bfloat16 [.., padded] to shared memory; row r of the tile is row index(r).
template <int kRows, class Index>
__device__ __forceinline__ void copy_chunk(unsigned char* shared, const uint16_t* from, int64_t padded, int chunk,
                                           const Index& index) {
  constexpr int kUnits = kChunk / 8;
  const int units = min(kUnits, (static_cast<int>(padded) - chunk * kChunk) / 8);
  from += chunk * kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kUnits; i += kThreads) {
    const int row = i / kUnits, unit = i % kUnits;
    if (unit < units)
      copy_async(unit_address(shared, row, unit), from + static_cast<int64_t>(index(row)) * padded + unit * 8);
  }
}

// Dot products of a warp's 32 rows with the tile's others, for one chunk.
__device__ __forceinline__ void multiply_chunk(float (&dots)[2][8][4], unsigned char* rows, unsigned char* others,
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
    for (int pair = 0; pair < kTileOthers / 16; ++pair) {
      uint32_t words[4];
      const int other = pair * 16 + (lane & 7) + (lane >> 4) * 8;
      load_matrices(words, unit_address(others, other, step * 2 + ((lane >> 3) & 1)));
      const uint32_t b[2][2] = {{words[0], words[1]}, {words[2], words[3]}};
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) mma_bf16_16x8x16(dots[m][pair * 2 + half], a[m], b[half]);
    }
  }
}

// Calls each(first of a tile, dots) for the tiles first_tile <= tile < last_tile of `count` others, ascending. dots[m][n][i]
// belongs to row m 16 + (i / 2) 8 + lane / 4 of the warp's 32 rows, and to number n 8 + (lane % 4) 2 + i % 2 of the tile.
// Row r of the tile is packed at rows[row_index(r)], other k of all at others[other_index(k)], k < count.
template <class RowIndex, class OtherIndex, class Each>
__device__ void for_tiles(const uint16_t* rows_packed, const uint16_t* others_packed, int64_t padded, int first_tile,
                          int last_tile, int count, unsigned char* shared, const RowIndex& row_index,
                          const OtherIndex& other_index, const Each& each) {
  // Each step reads other packed numbers: no memory has 2^31 steps.
  const int chunks = chunks_of(padded), steps = (last_tile - first_tile) * chunks;
  const bool stay = rows_stay(padded);
  unsigned char* const rows = shared;
  unsigned char* const others = shared + (stay ? chunks : kStages) * kRowBytes;

  const auto fetch = [&](int step) {
    if (step < steps) {
      const int of_tile = step / chunks, chunk = step - of_tile * chunks, first = (first_tile + of_tile) * kTileOthers;
      if (!stay || step < chunks)
        copy_chunk<kTileRows>(rows + (stay ? chunk : step % kStages) * kRowBytes, rows_packed, padded, chunk, row_index);
      copy_chunk<kTileOthers>(others + step % kStages * kOtherBytes, others_packed, padded, chunk, [&](int row) {
        return other_index(min(first + row, count - 1));
      });
    }
    commit_copies();  // an empty group where nothing is left, so that the count of groups stays the steps'
  };

  __syncthreads();  // the shared memory may still be read for the rows before
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  float dots[2][8][4] = {};
  int step = 0;
  for (int tile = first_tile; tile < last_tile; ++tile) {
    for (int chunk = 0; chunk < chunks; ++chunk, ++step) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this step's chunks are there, and those of the step before have been read
      fetch(step + kStages - 1);
      multiply_chunk(dots, rows + (stay ? chunk : step % kStages) * kRowBytes, others + step % kStages * kOtherBytes,
                     min(kChunk, static_cast<int>(padded) - chunk * kChunk) / 16);
    }
    each(tile * kTileOthers, dots);
#pragma unroll
    for (int i = 0; i < 2 * 8 * 4; ++i) dots[i / 32][i / 4 % 8][i % 4] = 0;
  }
}

inline __host__ __device__ int tiles_of(int64_t others) { return static_cast<int>((others + kTileOthers - 1) / kTileOthers); }

// The best screens of a row so far; lower is better.
struct Best {
  float best, second;
  int id;
};

__device__ __forceinline__ void take(Best& row, float screen, int id) {
  row.second = fminf(row.second, fmaxf(row.best, screen));
  row.id = screen < row.best ? id : row.id;
  row.best = fminf(row.best, screen);
}

// Of two halves of the others; ties go to the lower id.
__device__ __forceinline__ Best merged(const Best& a, const Best& b) {
  const bool first = a.best < b.best || (a.best == b.best && a.id < b.id);
  return {first ? a.best : b.best, fminf(fminf(a.second, b.second), fmaxf(a.best, b.best)), first ? a.id : b.id};
}

// From the four lanes of each of four groups of rows to lane l for row l of the warp's.
__device__ __forceinline__ Best of_own_row(Best (&best)[4]) {
  const int lane = lane_of_warp();
  Best mine{};
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
  return mine;
}

// From lane l, which has a value of row l of the warp's, to lanes that have rows s 8 + lane / 4.
template <class T>
__device__ __forceinline__ void of_four_rows(T mine, T (&values)[4]) {
#pragma unroll
  for (int s = 0; s < 4; ++s) values[s] = __shfl_sync(kFullWarp, mine, s * 8 + lane_of_warp() / 4);
}

// Pairs of bits, each to a byte of its own.
__device__ __forceinline__ uint32_t pairs_apart(uint32_t byte) {
  byte = (byte | byte << 12) & 0x000f000fu;
  return (byte | byte << 6) & 0x03030303u;
}

// Bits of a tile, from lanes that have those of rows s 8 + lane / 4 in marked[s], bit n 2 + i for number n 8 + (lane % 4) 2 +
// i of the tile, to lane l for row l of the warp's.
__device__ __forceinline__ Count of_own_row(const uint32_t (&marked)[4]) {
  const int lane = lane_of_warp();
  Count mine = 0;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    Count bits = (static_cast<Count>(pairs_apart(marked[s] >> 8)) << 32 | pairs_apart(marked[s] & 0xffu)) << lane % 4 * 2;
    bits |= __shfl_xor_sync(kFullWarp, bits, 1);
    bits |= __shfl_xor_sync(kFullWarp, bits, 2);
    const Count other = __shfl_sync(kFullWarp, bits, lane % 8 * 4);
    if (lane / 8 == s) mine = other;
  }
  return mine;
}

// By a warp whose lanes have a row and a set of bits each: score(lane, bit) for every bit, by octets, found for the row of
// that lane; take(bit, score) hears of each once, in that lane, bits ascending.
template <class Score, class Take>
__device__ __forceinline__ void score_bits(Count bits, const Score& score, const Take& take) {
  const int lane = lane_of_warp(), octet = lane / kOctet;
  for (unsigned rows = __ballot_sync(kFullWarp, bits != 0); rows != 0; rows &= rows - 1) {
    const int owner = __ffs(static_cast<int>(rows)) - 1;
    Count rest = __shfl_sync(kFullWarp, bits, owner);
    while (rest != 0) {  // four at a time, by the octets; those without one go along with the first
      const int left = __popcll(rest);
      Count ours = rest;
      for (int i = 0; i < octet; ++i) ours &= ours - 1;
      const int bit = __ffsll(static_cast<long long>(ours != 0 ? ours : rest)) - 1;
      const double found = score(owner, bit);
      for (int from = 0; from < min(left, kLanes / kOctet) * kOctet; from += kOctet) {
        const double one = __shfl_sync(kFullWarp, found, from);
        const int of = __shfl_sync(kFullWarp, bit, from);
        if (lane == owner) take(of, one);
      }
      for (int i = 0; i < kLanes / kOctet; ++i) rest &= rest - 1;
    }
  }
}

}  // namespace adaptinf::cuda
