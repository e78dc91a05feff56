// The inner loops of k-means, once per instruction set. All work on one thread and on memory that is theirs.
#pragma once

#include <cstdint>

#include "../common/cpu_features.h"
#include "rows.h"

namespace adaptinf::kmeans {

constexpr int64_t kMaxTileRows = 48;  // rows of the widest screen tile
constexpr int64_t kPanel = 8;         // centroids of a panel of the screen
constexpr int64_t kShortTable = 32;   // numbers of a table that registers hold

// Of each row of a tile over the centroids screened so far: the three highest screens, and whose the first two are.
struct Tops {
  float first[kMaxTileRows], second[kMaxTileRows], third[kMaxTileRows];
  int32_t first_id[kMaxTileRows], second_id[kMaxTileRows];
};

// What a screen says of each row of a tile: its label, that one's upper bound U and the bound's excess, and the highest U
// of the others. See packing.h.
struct Found {
  int32_t label[kMaxTileRows];
  float top[kMaxTileRows], excess[kMaxTileRows], others[kMaxTileRows];
};

// The certificate's share of each centroid j: n_j, s_j and e_j. kShortTable numbers can be read of each at least.
struct Shares {
  const float *norm, *residual, *rest;
  int64_t count;
};

// How far centroids moved; all but `farthest` at most `second`, and all but a few at most `others`, of which gaps[j] says
// how near they are to centroid j now. Bounds that are no more than `margin` apart, squared, prove nothing.
struct Drift {
  const float *moved, *gaps;
  int32_t farthest;
  float most, second, others, margin;
};

// 2-norms of a vector as it is, as it was packed, and of their difference; rounded, not bounds.
struct Norms {
  double whole, packed, residual;
};

struct Kernels {
  int64_t tile_rows;  // rows of a screen tile
  bool brain;         // whether a word of the screen is two bfloat16 or one float32

  // y [padded] = the row in its frame, zeros from `columns` on; see rows.h. to_unit divides y by its length.
  void (*load)(const Rows& rows, int64_t row, double* y);
  void (*to_unit)(double* y, int64_t padded);

  // lane8 sums over `padded` columns, a multiple of 8.
  double (*dot)(const double* a, const double* b, int64_t padded);
  double (*squared_distance)(const double* a, const double* b, int64_t padded);

  // dots = y . a and y . b of a row in its frame; y [padded] is scratch.
  void (*two_dots)(const Rows& rows, int64_t row, const double* a, const double* b, double (&dots)[2], double* y);

  // |y - c|^2 of a row in its frame, or 1 - y . c for unit rows; y [padded] is scratch.
  double (*row_distance)(const Rows& rows, int64_t row, const double* c, double* y);

  // mean [padded] = sums / scale / by.
  void (*mean)(const int64_t* sums, double scale, double by, double* mean, int64_t padded);

  // Adds rint((y * weight) * scale) of a row in its frame to the sums of the cluster `to` and subtracts it from those of
  // `from`, unless -1; sums [clusters][padded], y [padded] is scratch.
  void (*move)(const Rows& rows, int64_t row, double weight, double scale, int64_t from, int64_t to, int64_t* sums,
               double* y);

  // sums [padded] += rint(x * scale) of rows `first` to `last`, whose origin is zero; y [padded] is scratch.
  void (*add_columns)(const Rows& rows, int64_t first, int64_t last, double scale, double* y, int64_t* sums);

  // Whether rows `first` to `last`, at least one, are finite; where they are, low and high [padded] take the columns in. The
  // rows' origin is zero; y [padded] is scratch.
  bool (*extend)(const Rows& rows, int64_t first, int64_t last, double* y, double* low, double* high);

  // words: y * scale rounded, as the screen reads it, zeros beyond `columns`.
  Norms (*pack)(const double* y, double scale, int64_t columns, uint32_t* words);

  // The same of a row in its frame; y [padded] is scratch.
  Norms (*pack_row)(const Rows& rows, int64_t row, double scale, double* y, uint32_t* words);

  // tile [words][tile_rows] = the words of rows [tile_rows].
  void (*transpose)(const uint32_t* const* rows, int64_t words, uint32_t* tile);

  // Screens offset_j + row . centroid_j of panels first to last (excluded); panels [words][kPanel] of centroids. Those from 0
  // on begin new `tops`.
  void (*screen)(const uint32_t* tile, int64_t words, const uint32_t* panels, const float* offsets, int64_t first,
                 int64_t last, Tops& tops);

  // The same, kept: all [panels * kPanel][tile_rows].
  void (*screen_all)(const uint32_t* tile, int64_t words, const uint32_t* panels, const float* offsets, int64_t n_panels,
                     float* all);

  // Bit r: whether values [tile_rows] reach least [tile_rows].
  uint64_t (*reaching)(const float* values, const float* least);

  // Takes the first of `tops` as the labels; `slack` are the last words of the tile. Bit r: whether row r's is proven.
  uint64_t (*decide)(const Tops& tops, const uint32_t* slack, const Shares& shares, Found& found);

  // upper, lower [tile_rows] = bounds on the distance to the own centroid and to the nearest other one; see bounds.h.
  void (*bound)(const Found& found, const float* norms, float far, float near, float* upper, float* lower);

  // Loosens the bounds; bit r: whether row r's label may have changed.
  uint64_t (*loosen)(const Drift& drift, const int32_t* labels, float* upper, float* lower);

  // 64 bits of `count` bytes; see kernels/adaptinf_kernels/kmeans/README.md.
  uint64_t (*hash)(const void* bytes, int64_t count);

  // Bit r: whether a [tile_rows] and b differ.
  uint64_t (*differing)(const int32_t* a, const int32_t* b);
};

// `brain` asks for the bfloat16 screen, which needs has_avx512_bf16() and level avx512.
const Kernels& kernels(CpuLevel level, bool brain);

}  // namespace adaptinf::kmeans
