// What the phases of a de-duplication share: the call, its workspace, and a cluster's rows as unit rows.
#pragma once

#include "../common/cuda_team.cuh"
#include "dedup_cuda.h"

namespace adaptinf::semdedup::cuda {

using namespace adaptinf::cuda;

// r = float32(scale * x), u = float32(r * inverse) has length 1. A zero row: 1, 0.
struct Scaling {
  double scale, inverse;
};

// Of y = u - center: its length, that of what rounding took from it, and center . y + |center|^2.
struct Residual {
  double length, rounding, offset;
};

// The largest of a cluster's rows.
struct Extent {
  double length, rounding, along;
};

// The most similar row before, -1 for none.
struct Nearest {
  double similarity;
  int row;
};

// Of n places, or of distinct rows, which a cluster numbers from zero and keeps from its first place on. Places and distinct
// rows are counted from the cluster's first.
struct Workspace {
  int64_t *bounds, *order;  // [clusters + 1], [clusters]: copies on the device; cluster numbers, the small ones first
  double* thresholds;       // copies on the device
  int *bad;                 // set where rows are none of x
  int *distinct;            // [clusters]

  Scaling* scalings;  // of places
  Count* hashes;      // of places' unit rows
  int* slots;         // [2 n]: a table with open addressing of places
  int* kind;          // of places: the place of the table that is equal
  int* original;      // of those: the first place that is equal
  int* number_of;     // of original places: the distinct row
  int* place_of;      // of distinct rows: the original place

  float* centers;          // [clusters, columns]
  uint16_t* rounded;       // [n, padded], bfloat16 of y
  Residual* residuals;     // of distinct rows
  Extent* extents;         // [clusters]
  float* bias;             // of distinct rows: what minus the dot product of the rounded rows is added to in a screen
  Count* best;             // of distinct rows: the lowest screen of a row before, as a key, and its number
  uint32_t* second;        // the second lowest
  float* candidate_below;  // of undecided rows: the screen up to which a row may be the most similar
  int *undecided, *undecided_count;  // distinct rows, [clusters]
  Nearest *parts, *nearest;          // of slices of undecided rows; of distinct rows

  int *gone;                             // greedy: of distinct rows, whether a kept row is too similar
  int *kept_rows;                        // greedy: of distinct rows, those that stay
  int *kept_count, *kept_before;         // greedy: [clusters], now and before the last block of rows
  int *decided;                          // greedy: [clusters], rows so far
  int* parents;                          // components: [thresholds, n]
};

// The cluster's number, its first place and how many it has; and which of a launch's problems it is.
struct Cluster {
  int64_t number, problem, first;
  int places;
};

struct State {
  const void* x;
  DType dtype;
  int64_t x_rows, row_stride, columns;
  const int64_t* rows;
  int64_t n, results, slice_tiles;
  Keep keep;
  Workspace work;
  int64_t padded;  // columns, filled up with zeros to whole steps of the tensor cores

  int64_t first, count;  // of the clusters of a launch, in their order
  double threshold;      // of a launch,
  int64_t result;        // and its number
  int8_t* kept;
  int64_t* before;
  double* similarity;

  __host__ __device__ int64_t problems() const { return count; }
  __device__ Cluster problem(int64_t number) const {
    const int64_t cluster = work.order[first + number], begin = work.bounds[cluster];
    return {cluster, number, begin, static_cast<int>(work.bounds[cluster + 1] - begin)};
  }
};

__device__ __forceinline__ int distinct_of(const State& s, const Cluster& c) { return s.work.distinct[c.number]; }

__device__ __forceinline__ const void* row_at(const State& s, int64_t place) {
  const int64_t row = min(max(s.rows[place], int64_t{0}), s.x_rows - 1);  // others were found, and the call will fail
  return static_cast<const char*>(s.x) + row * s.row_stride * bytes_of(s.dtype);
}

struct UnitRow {
  const void* data;
  DType dtype;
  Scaling by;

  __device__ __forceinline__ float operator()(int64_t t) const {
    const float scaled = static_cast<float>(multiply(value_at(data, dtype, t), by.scale));
    const float unit = static_cast<float>(multiply(scaled, by.inverse));
    return unit == 0 ? 0 : unit;  // no -0
  }
};

__device__ __forceinline__ UnitRow unit_at(const State& s, const Cluster& c, int place) {
  return {row_at(s, c.first + place), s.dtype, s.work.scalings[c.first + place]};
}

__device__ __forceinline__ UnitRow unit_of(const State& s, const Cluster& c, int distinct) {
  return unit_at(s, c, s.work.place_of[c.first + distinct]);
}

// By an octet: the similarity of two distinct rows.
__device__ __forceinline__ double similarity(const State& s, const UnitRow& a, const UnitRow& b) {
  double sum = 0;
  for (int64_t t = lane_of_octet(); t < s.columns; t += kOctet) sum = add(sum, multiply(a(t), b(t)));
  sum = join_octet(sum);
  return sum < 1 ? sum : 1;
}

// Screens are lower the more similar: bias_i - y'_i . y'_j, which is offset_j - s(i, j) but for `error` at most.
struct Doubt {
  double offset, error;

  // s > threshold where the screen is less
  __device__ __forceinline__ float surely_above(double threshold) const {
    return threshold < 1 ? __double2float_rd(offset - threshold - error) : -INFINITY;
  }
  // s <= threshold where the screen is more
  __device__ __forceinline__ float perhaps_above(double threshold) const {
    return threshold < 1 ? __double2float_ru(offset - threshold + error) : -INFINITY;
  }
};

// Cauchy and Schwarz for what rounding took from both rows; tensor cores, which add eight products and a sum at a time and
// cut each off at 2^-23 of the largest; the rounding of the bias and the screen; float64 everywhere else.
__device__ __forceinline__ Doubt doubt_of(const State& s, const Cluster& c, int distinct) {
  const Residual of = s.work.residuals[c.first + distinct];
  const Extent all = s.work.extents[c.number];
  const double rounded = all.length + all.rounding, product = rounded * (of.length + of.rounding);
  const double additions = static_cast<double>(2 * s.padded + 64) * 0x1p-23;
  const double error = all.rounding * of.length + rounded * of.rounding + additions * product +
                       0x1p-22 * (all.along + product);
  return {of.offset, 1.001 * error + 1e-30 + static_cast<double>(s.columns + 8) * 0x1p-50};
}

}  // namespace adaptinf::semdedup::cuda
