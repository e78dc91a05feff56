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

// The bits of a tile, by its screens, that are too similar to each lane's row, where the lane asks.
template <class Before>
__device__ __forceinline__ Count too_similar(const State& s, const Cluster& c, const Before& before, int first,
                                             const float (&screens)[2][8][4], const Edges& edges, int row, bool asks) {
  Count found = edges.surely(screens);
  const Count open = edges.perhaps(screens);
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
  const auto row_index = [&](int row) { return start + min(row, count - 1); };
  const int own = static_cast<int>(threadIdx.x), row = row_index(own);
  int rows[4];
  of_four_rows(row, rows);
  const Edges edges(s, c, row, s.threshold);
  Near mine{{}, own < count ? s.work.gone[c.first + row] : 1};
  const int first_tile = start / kTileOthers;
  for_tiles_before(s, c, before, first_tile, tiles_of(before.count), shared, row_index,
                   [&](int first, float(&dots)[2][8][4]) {
    to_screens(s, c, before, first, dots, rows);
    const Count found = too_similar(s, c, before, first, dots, edges, row, mine.gone == 0);
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
  const int tiles = (distinct + kTileRows - 1) / kTileRows, first = (decided - 1) / kTileRows;
  for (int tile = first + static_cast<int>(team.block); tile < tiles; tile += static_cast<int>(team.blocks)) {
    const auto row_index = [&](int row) { return min(tile * kTileRows + row, distinct - 1); };
    const int row = tile * kTileRows + static_cast<int>(threadIdx.x);
    const int own = row_index(static_cast<int>(threadIdx.x));
    int rows[4];
    of_four_rows(own, rows);
    Best best[4];
#pragma unroll
    for (int g = 0; g < 4; ++g) best[g] = {INFINITY, INFINITY, 0};
    const Edges edges(s, c, own, s.threshold);
    float below[4];
    of_four_rows(edges.below, below);
    bool gone = row < decided || row >= distinct || s.work.gone[c.first + row] != 0;
    const bool was_gone = gone;
    for_tiles_before(s, c, before, 0, tiles_of(before.count), shared, row_index,
                     [&](int position, float(&dots)[2][8][4]) {
      bool near = false;
      to_screens(s, c, before, position, dots, rows);
      const int mine = position + lane_of_warp() % 4 * 2;
      for_screens(dots, [&](int g, int n, int i, float screen) {
        take(best[g], screen, mine + n * 8 + i);  // an id at the end: both ascend
        near = near || screen <= below[g];
      });
      if (__ballot_sync(kFullWarp, near) == 0) return;
      gone = too_similar(s, c, before, position, dots, edges, own, !gone) != 0 || gone;
    });
    if (gone && !was_gone) s.work.gone[c.first + row] = 1;
    Best mine = of_own_row(best);
    mine.id = before(mine.id);
    if (row < distinct) record(s, c, row, mine);
  }
}

}  // namespace adaptinf::semdedup::cuda
