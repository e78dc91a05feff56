// The most similar row before each distinct row: tiles of 128 rows meet tiles of 64 that come before, screened on the tensor
// cores; where the best screen is better than the second by more than both can be wrong, it is the row. Other rows are
// screened once more, and what may be their most similar one is decided among in float64.
#pragma once

#include "../common/cuda_screen.cuh"
#include "components.cuh"

namespace adaptinf::semdedup::cuda {

__host__ __device__ inline int search_slices(const State& s, int64_t rows) {
  return static_cast<int>((tiles_of(rows) + s.slice_tiles - 1) / s.slice_tiles);
}

// Rows that count as coming before, in ascending order, as far as their number is less.
struct Everyone {
  int count;
  __device__ int operator()(int position) const { return position; }
};

struct Listed {
  int count;
  const int* rows;
  __device__ int operator()(int position) const { return rows[position]; }
};

// Which rows count when nothing is left to decide.
__device__ __forceinline__ Listed kept_rows(const State& s, const Cluster& c) {
  return {s.work.kept_count[c.number], s.work.kept_rows + c.first};
}

// Unsigned integers in the order of floats.
__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = static_cast<uint32_t>(__float_as_int(value));
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float of_key(uint32_t key) {
  return __int_as_float(static_cast<int>(key >> 31 != 0 ? key & 0x7fffffffu : ~key));
}

constexpr Count kNothing = ~Count{0};

__device__ void clear_search(const State& s, const Cluster& c, const Team& team) {
  for (int64_t row = team.thread(); row < distinct_of(s, c); row += team.threads()) {
    s.work.best[c.first + row] = kNothing;
    s.work.second[c.first + row] = static_cast<uint32_t>(kNothing);
    if (s.keep == Keep::greedy) s.work.gone[c.first + row] = 0;
  }
  if (s.keep == Keep::components) clear_components(s, c, team);
  if (team.thread() != 0) return;
  s.work.undecided_count[c.number] = 0;
  if (s.keep == Keep::greedy) s.work.kept_count[c.number] = s.work.kept_before[c.number] = s.work.decided[c.number] = 0;
}

// What was found for a row joins what is known. Whatever loses against the best at its time is a second, so that the order
// of these does not matter.
__device__ __forceinline__ void record(const State& s, const Cluster& c, int row, const Best& found) {
  if (!(found.best < INFINITY)) return;
  const Count mine = static_cast<Count>(key_of(found.best)) << 32 | static_cast<uint32_t>(found.id);
  const Count known = atomicMin(s.work.best + c.first + row, mine);
  const uint32_t lost = static_cast<uint32_t>(max(known, mine) >> 32);
  atomicMin(s.work.second + c.first + row, min(lost, key_of(found.second)));
}

// Dot products of a tile become screens, in the same registers; infinite where a row does not come before. Rows are those
// of a lane, whose ids are given.
template <class Before>
__device__ __forceinline__ void to_screens(const State& s, const Cluster& c, const Before& before, int first,
                                           float (&dots)[2][8][4], const int (&rows)[4]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int number = n * 8 + lane_of_warp() % 4 * 2 + i;
      const bool exists = first + number < before.count;
      const int id = exists ? before(first + number) : 0x7fffffff;
      const float bias = exists ? s.work.bias[c.first + id] : INFINITY;
#pragma unroll
      for (int g = 0; g < 4; ++g) {
        float& value = dots[g / 2][n][g % 2 * 2 + i];
        value = id < rows[g] ? bias - value : INFINITY;
      }
    }
  }
}

// each(g, n, i, screen) for rows g 8 + lane / 4 of the warp's and numbers n 8 + (lane % 4) 2 + i of the tile.
template <class Each>
__device__ __forceinline__ void for_screens(const float (&screens)[2][8][4], const Each& each) {
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int g = 0; g < 4; ++g) each(g, n, i, screens[g / 2][n][g % 2 * 2 + i]);
}

// Which rows of the tile are near(g, screen), to lane l for row l of the warp's.
template <class Near>
__device__ __forceinline__ Count near_own_row(const float (&screens)[2][8][4], const Near& near) {
  uint32_t found[4] = {};
  for_screens(screens, [&](int g, int n, int i, float screen) { found[g] |= near(g, screen) ? 1u << (n * 2 + i) : 0u; });
  return of_own_row(found);
}

// What is surely, and what perhaps above a threshold, for lane l by row l of the warp's.
struct Edges {
  float above, below;

  __device__ Edges(const State& s, const Cluster& c, int row, double threshold) {
    const Doubt doubt = doubt_of(s, c, row);
    above = doubt.surely_above(threshold);
    below = doubt.perhaps_above(threshold);
  }
  // The bits of a tile.
  __device__ __forceinline__ Count surely(const float (&screens)[2][8][4]) const {
    float limits[4];
    of_four_rows(above, limits);
    return near_own_row(screens, [&](int g, float screen) { return screen < limits[g]; });
  }
  __device__ __forceinline__ Count perhaps(const float (&screens)[2][8][4]) const {
    float limits[4], sure[4];
    of_four_rows(below, limits);
    of_four_rows(above, sure);
    return near_own_row(screens, [&](int g, float screen) { return screen <= limits[g] && !(screen < sure[g]); });
  }
};

// Tiles first_tile to last_tile of those before; row r of this tile of rows is row_index(r).
template <class Before, class Index, class Each>
__device__ __forceinline__ void for_tiles_before(const State& s, const Cluster& c, const Before& before, int first_tile,
                                                 int last_tile, unsigned char* shared, const Index& row_index,
                                                 const Each& each) {
  const uint16_t* packed = s.work.rounded + c.first * s.padded;
  for_tiles(packed, packed, s.padded, first_tile, last_tile, before.count, shared, row_index,
            before, each);
}

template <bool kJoins>
__device__ void search_tile(const State& s, const Cluster& c, int tile, int first_tile, int last_tile,
                            unsigned char* shared) {
  const Everyone before{distinct_of(s, c)};
  const auto row_index = [&](int row) { return min(tile * kTileRows + row, before.count - 1); };
  const int own = row_index(static_cast<int>(threadIdx.x));
  int rows[4];
  of_four_rows(own, rows);
  Best best[4];
#pragma unroll
  for (int g = 0; g < 4; ++g) best[g] = {INFINITY, INFINITY, 0};
  const Joins<kJoins> joins(s, c, own);
  for_tiles_before(s, c, before, first_tile, last_tile, shared, row_index, [&](int first, float(&dots)[2][8][4]) {
    bool near = false;
    to_screens(s, c, before, first, dots, rows);
    const int mine = first + lane_of_warp() % 4 * 2;
    for_screens(dots, [&](int g, int n, int i, float screen) {
      take(best[g], screen, mine + n * 8 + i);
      near = near || joins.near(g, screen);
    });
    if constexpr (kJoins) {
      if (__ballot_sync(kFullWarp, near) == 0) return;
      for (int64_t result = 0; result < s.results; ++result) {
        // Worked out anew for such a tile, which is seldom: kept through all tiles they would cost registers.
        const Edges edges(s, c, own, s.work.thresholds[result]);
        join_bits(s, c, result, own, first, edges.surely(dots), edges.perhaps(dots));
      }
    }
  });
  const Best mine = of_own_row(best);
  const int row = tile * kTileRows + static_cast<int>(threadIdx.x);
  if (row < before.count) record(s, c, row, mine);
}

// All tiles of rows by slices of the tiles before them.
template <bool kJoins>
__device__ void search(const State& s, const Cluster& c, const Team& team, unsigned char* shared) {
  const int distinct = distinct_of(s, c), slice_tiles = static_cast<int>(s.slice_tiles);
  const int64_t tiles = (distinct + kTileRows - 1) / kTileRows, slices = search_slices(s, distinct);
  for (int64_t item = team.block; item < tiles * slices; item += team.blocks) {
    const int tile = static_cast<int>(tiles - 1 - item / slices);  // the longest first
    const int first = static_cast<int>(item % slices) * slice_tiles;
    const int last = min(min(first + slice_tiles, tiles_of(distinct)), (tile + 1) * (kTileRows / kTileOthers));
    if (first < last) search_tile<kJoins>(s, c, tile, first, last, shared);
  }
}

// Where the best screen proves the row, its similarity; the other rows are listed.
__device__ void settle(const State& s, const Cluster& c, const Team& team) {
  for_octets(team, distinct_of(s, c), [&](int64_t index, bool valid) {
    const int row = static_cast<int>(index);
    const Count best = s.work.best[c.first + row];
    const bool any = best != kNothing;
    const Doubt doubt = doubt_of(s, c, row);
    // a similarity of 1 or more counts as 1, so that less than that does not prove a row to be the most similar
    const double screen = any ? of_key(static_cast<uint32_t>(best >> 32)) : 0;
    const float below = __double2float_ru(fmax(screen + doubt.error, doubt.offset - 1) + doubt.error);
    const uint32_t second = s.work.second[c.first + row];
    const bool proven = any && (second == static_cast<uint32_t>(kNothing) || of_key(second) > below);
    const int other = any ? static_cast<int>(best & 0xffffffffu) : row;
    const double found = similarity(s, unit_of(s, c, row), unit_of(s, c, other));
    if (!valid || lane_of_octet() != 0) return;
    if (proven || !any) {
      s.work.nearest[c.first + row] = any ? Nearest{found, other} : Nearest{-INFINITY, -1};
      return;
    }
    s.work.candidate_below[c.first + row] = below;
    s.work.undecided[c.first + atomicAdd(s.work.undecided_count + c.number, 1)] = row;
  });
}

// As many slices of the rows before as there is room for the results of.
__device__ __forceinline__ int score_slices(const State& s, const Cluster& c, int count) {
  return max(min(search_slices(s, distinct_of(s, c)), distinct_of(s, c) / count), 1);
}

// The most similar row before each undecided one, in each slice.
template <class Before>
__device__ void score(const State& s, const Cluster& c, const Before& before, const Team& team, unsigned char* shared) {
  const int count = s.work.undecided_count[c.number];
  if (count == 0) return;
  const int* undecided = s.work.undecided + c.first;
  const int slices = score_slices(s, c, count), per_slice = (tiles_of(before.count) + slices - 1) / slices;
  for (int64_t item = team.block; item < int64_t{slices} * ((count + kTileRows - 1) / kTileRows); item += team.blocks) {
    const int tile = static_cast<int>(item / slices), slice = static_cast<int>(item % slices);
    const int place = tile * kTileRows + static_cast<int>(threadIdx.x);
    const auto row_index = [&](int row) { return undecided[min(tile * kTileRows + row, count - 1)]; };
    const int row = row_index(static_cast<int>(threadIdx.x));
    int rows[4];
    float below[4];
    of_four_rows(row, rows);
    of_four_rows(s.work.candidate_below[c.first + row], below);
    Nearest nearest{-INFINITY, -1};
    const int last = min(tiles_of(before.count), (slice + 1) * per_slice);
    for_tiles_before(s, c, before, min(slice * per_slice, last), last, shared, row_index,
                     [&](int first, float(&dots)[2][8][4]) {
      to_screens(s, c, before, first, dots, rows);
      const Count candidates = near_own_row(dots, [&](int g, float screen) { return screen <= below[g]; });
      const auto exact = [&](int owner, int bit) {
        return similarity(s, unit_of(s, c, __shfl_sync(kFullWarp, row, owner)), unit_of(s, c, before(first + bit)));
      };
      score_bits(place < count ? candidates : 0, exact, [&](int bit, double value) {  // ties stay with the first
        if (value > nearest.similarity) nearest = {value, before(first + bit)};
      });
    });
    if (place < count) s.work.parts[c.first + int64_t{place} * slices + slice] = nearest;
  }
}

__device__ void join_slices(const State& s, const Cluster& c, const Team& team) {
  const int count = s.work.undecided_count[c.number];
  if (count == 0) return;
  const int64_t slices = score_slices(s, c, count);
  for (int64_t place = team.thread(); place < count; place += team.threads()) {
    const Nearest* parts = s.work.parts + c.first + place * slices;
    Nearest best = parts[0];
    for (int64_t slice = 1; slice < slices; ++slice)
      if (parts[slice].similarity > best.similarity) best = parts[slice];
    s.work.nearest[c.first + s.work.undecided[c.first + place]] = best;
  }
}

// Results of a cluster's places. A copy is alike the first of its kind, where that counts as a row before, and otherwise
// alike what that one is alike.
__device__ void spread(const State& s, const Cluster& c, const Team& team) {
  for (int64_t place = team.thread(); place < c.places; place += team.threads()) {
    const int original = s.work.original[c.first + s.work.kind[c.first + place]];
    const int row = s.work.number_of[c.first + original];
    const Nearest of = s.work.nearest[c.first + row];
    const double self = s.work.scalings[c.first + original].inverse == 0 ? 0 : 1;
    const bool is_copy = place != original, counts = s.keep != Keep::greedy || s.work.gone[c.first + row] == 0;
    const bool inherits = is_copy && !(of.row >= 0 && of.similarity >= self) && counts;
    int64_t before = of.row < 0 ? -1 : c.first + s.work.place_of[c.first + of.row];
    if (inherits) before = c.first + original;
    const double found = inherits ? self : of.row < 0 ? NAN : of.similarity;
    const int64_t out = s.result * s.n + c.first + place;
    s.similarity[out] = found;
    s.kept[out] = !(found > s.threshold);
    s.before[out] = before;
    if (s.keep != Keep::components) continue;
    const bool joined = !is_copy || self > s.threshold;
    const int root = joined ? s.work.place_of[c.first + root_of(s, c, s.result, row)] : static_cast<int>(place);
    s.kept[out] = root == place;
    s.before[out] = root == place ? -1 : c.first + root;
  }
}

}  // namespace adaptinf::semdedup::cuda
