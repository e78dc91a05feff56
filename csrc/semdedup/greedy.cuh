// Which rows stay where only those that stay count as coming before: a block of rows after the other is decided, and those
// of it that stay are shown to all later rows, whose search they advance.
#pragma once

#include "search.cuh"

namespace adaptinf::semdedup::cuda {

constexpr int kParts = kTileRows / kTileOthers;

// For every row of the block, those of the block before it that are too similar, and whether an earlier one was.
struct Near {
  Count rows[kParts];
  int gone;
};

// By a lane's four rows: what is surely, and what perhaps above the threshold.
struct Edges {
  float above[4], below[4];

  __device__ Edges(const State& s, const Cluster& c, const int (&rows)[4]) {
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      const Doubt doubt = doubt_of(s, c, rows[g]);
      above[g] = doubt.surely_above(s.threshold);
      below[g] = doubt.perhaps_above(s.threshold);
    }
  }
};

// The bits of a tile that are too similar to each lane's row, where the lane asks.
template <class Before>
__device__ __forceinline__ Count too_similar(const State& s, const Cluster& c, const Before& before, int64_t first,
                                             const float (&dots)[2][8][4], const int (&rows)[4], const Edges& edges, int row,
                                             bool asks) {
  Count surely[4] = {}, perhaps[4] = {};
  for_screens(s, c, before, first, dots, rows, [&](int g, int number, int, float screen) {
    if (screen < edges.above[g]) surely[g] |= Count{1} << number;
    else if (screen <= edges.below[g]) perhaps[g] |= Count{1} << number;
  });
  Count found = of_own_row(surely);
  const Count open = of_own_row(perhaps);
  const auto exact = [&](int owner, int bit) {
    return similarity(s, unit_of(s, c, __shfl_sync(kFullWarp, row, owner)), unit_of(s, c, before(first + bit)));
  };
  score_bits(asks ? open : 0, exact, [&](int bit, double value) {
    if (value > s.threshold) found |= Count{1} << bit;
  });
  return asks ? found : 0;
}

// By one block: the next rows of the cluster, one after the other.
__device__ void decide_block(const State& s, const Cluster& c, unsigned char* shared) {
  const int start = s.work.decided[c.number], distinct = distinct_of(s, c), count = min(kTileRows, distinct - start);
  if (count <= 0) return;
  const Listed known = kept_rows(s, c);
  const Everyone before{start + count};
  const auto row_index = [&](int row) { return static_cast<int64_t>(start + min(row, count - 1)); };
  const int own = static_cast<int>(threadIdx.x), row = static_cast<int>(row_index(own));
  int rows[4];
  rows_of_lane(row_index, rows);
  const Edges edges(s, c, rows);
  Near mine{{}, own < count ? s.work.gone[c.first + row] : 1};
  const int64_t first_tile = start / kTileOthers;
  for_tiles_before(s, c, before, first_tile, tiles_of(before.count), shared, row_index,
                   [&](int64_t first, const float(&dots)[2][8][4]) {
    const Count found = too_similar(s, c, before, first, dots, rows, edges, row, mine.gone == 0);
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      if (first / kTileOthers == first_tile + part) mine.rows[part] = found;
  });
  __syncthreads();  // shared memory has been read
  Near* all = reinterpret_cast<Near*>(shared);
  all[own] = mine;
  __syncthreads();
  Count kept[kParts] = {};
  for (int r = 0; r < count; ++r) {
    Count stops = static_cast<Count>(all[r].gone);
    for (int part = 0; part < kParts; ++part) stops |= all[r].rows[part] & kept[part];
    if (stops == 0) kept[r / kTileOthers] |= Count{1} << r % kTileOthers;
  }
  int position = known.count, total = known.count;
  for (int part = 0; part < kParts; ++part) {
    const int here = own - part * kTileOthers;
    const Count below = here >= kTileOthers ? ~Count{0} : here > 0 ? (Count{1} << here) - 1 : 0;
    position += __popcll(kept[part] & below);
    total += __popcll(kept[part]);
  }
  if (own < count) {
    const bool stays = (kept[own / kTileOthers] >> own % kTileOthers & 1) != 0;
    s.work.gone[c.first + row] = !stays;
    if (stays) s.work.kept_rows[c.first + position] = row;
  }
  if (own != 0) return;
  s.work.kept_before[c.number] = known.count;
  s.work.kept_count[c.number] = total;
  s.work.decided[c.number] = start + count;
}

// What stays of the block that was decided last, to its own rows and all later ones.
__device__ void show_block(const State& s, const Cluster& c, const Team& team, unsigned char* shared) {
  const int decided = s.work.decided[c.number], distinct = distinct_of(s, c), known = s.work.kept_before[c.number];
  const Listed before{s.work.kept_count[c.number] - known, s.work.kept_rows + c.first + known};
  if (before.count == 0) return;
  const int64_t tiles = (distinct + kTileRows - 1) / kTileRows, first = (decided - 1) / kTileRows;
  for (int64_t tile = first + team.block; tile < tiles; tile += team.blocks) {
    const auto row_index = [&](int row) { return min(tile * kTileRows + row, static_cast<int64_t>(distinct - 1)); };
    const int64_t row = tile * kTileRows + threadIdx.x;
    int rows[4];
    rows_of_lane(row_index, rows);
    Best best[4];
#pragma unroll
    for (int g = 0; g < 4; ++g) best[g] = {INFINITY, INFINITY, 0};
    const Edges edges(s, c, rows);
    bool gone = row < decided || row >= distinct || s.work.gone[c.first + row] != 0;
    const bool was_gone = gone;
    for_tiles_before(s, c, before, 0, tiles_of(before.count), shared, row_index,
                     [&](int64_t position, const float(&dots)[2][8][4]) {
      bool near = false;
      for_screens(s, c, before, position, dots, rows, [&](int g, int, int id, float screen) {
        take(best[g], screen, id);
        near = near || screen <= edges.below[g];
      });
      if (__ballot_sync(kFullWarp, near) == 0) return;
      const int own = static_cast<int>(min(row, static_cast<int64_t>(distinct - 1)));
      gone = too_similar(s, c, before, position, dots, rows, edges, own, !gone) != 0 || gone;
    });
    if (gone && !was_gone) s.work.gone[c.first + row] = 1;
    const Best mine = of_own_row(best);
    if (row < distinct) record(s, c, static_cast<int>(row), mine);
  }
}

}  // namespace adaptinf::semdedup::cuda
