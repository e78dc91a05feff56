// Sums and extremes over a problem's rows.
#pragma once

#include "fit_state.cuh"

namespace adaptinf::kmeans::cuda {

struct ScanState : State {
  double *low, *high;  // [problems, columns]
  int64_t *bad, *sums;
  const double* scale;  // [problems]
};

constexpr int kScanRows = 128;  // of a block at a time

__device__ __forceinline__ Row plain_row(const State& state, const Problem& p, int64_t row) {
  return row_of(state, p, row, Unit{1, 1});
}

// Lower and raise numbers of any sign: the bits of the positive ones have their order as signed integers, those of the
// negative ones the opposite order as unsigned integers.
__device__ __forceinline__ void lower_any(double* least, double value) {
  const long long bits = __double_as_longlong(value);
  if (bits >= 0) atomicMin(reinterpret_cast<long long*>(least), bits);
  else atomicMax(reinterpret_cast<Count*>(least), static_cast<Count>(bits));
}

__device__ __forceinline__ void raise_any(double* most, double value) {
  const long long bits = __double_as_longlong(value);
  if (bits >= 0) atomicMax(reinterpret_cast<long long*>(most), bits);
  else atomicMin(reinterpret_cast<Count*>(most), static_cast<Count>(bits));
}

// By a warp: each(row) for its rows, strip by strip. A lane goes through them for a column, then for its next one, so that a
// column costs one atomic a warp.
template <class Each>
__device__ __forceinline__ void for_rows_of_warp(const Problem& p, const Team& team, const Each& each) {
  constexpr int64_t kStrip = kScanRows / kWarps;
  for (int64_t first = team.warp() * kStrip; first < p.rows; first += team.warps() * kStrip)
    for (int64_t row = first; row < min(first + kStrip, p.rows); ++row) each(p.first_row + row);
}

inline __device__ void find_extremes(const ScanState& state, const Problem& p, const Team& team) {
  const int64_t columns = state.fit.columns, end = p.first_row + p.rows;
  int64_t bad = end;
  for (int64_t t = lane_of_warp(); t < columns; t += kLanes) {
    double low = INFINITY, high = -INFINITY;
    for_rows_of_warp(p, team, [&](int64_t row) {
      const double value = plain_row(state, p, row).x(t);
      if (!(fabs(value) < INFINITY)) bad = min(bad, row);
      low = fmin(low, value);
      high = fmax(high, value);
    });
    lower_any(state.low + p.number * columns + t, low);
    raise_any(state.high + p.number * columns + t, high);
  }
  if (bad < end) atomicMin(reinterpret_cast<Count*>(state.bad + p.number), static_cast<Count>(bad));  // -1: the largest
}

inline __device__ void add_columns(const ScanState& state, const Problem& p, const Team& team) {
  const int64_t columns = state.fit.columns;
  const double scale = state.scale[p.number];
  for (int64_t t = lane_of_warp(); t < columns; t += kLanes) {
    int64_t sum = 0;
    for_rows_of_warp(p, team, [&](int64_t row) { sum += rounded(multiply(plain_row(state, p, row).x(t), scale)); });
    add_integer(state.sums + p.number * columns + t, sum);
  }
}

inline __device__ void add_squares(const ScanState& state, const Problem& p, const Team& team) {
  const int64_t columns = state.fit.columns;
  int64_t sum = 0;
  for_octets(team, p.rows, [&](int64_t index, bool valid) {
    const int64_t row = p.first_row + index;
    Unit unit{1, 1};
    if (state.fit.spherical) {
      const Row x = plain_row(state, p, row);
      unit = unit_of([&](int64_t t) { return x.x(t); }, columns, lane_of_octet());
    }
    const Row y = row_of(state, p, row, unit);
    double squares = 0;
    for (int64_t t = lane_of_octet(); t < columns; t += kOctet) {
      const double value = y(t);
      squares = add(squares, multiply(value, value));
    }
    squares = join_octet(squares);
    if (valid && lane_of_octet() == 0) sum += rounded(multiply(squares, state.scale[p.number]));
  });
  if (sum != 0) add_integer(state.sums + p.number, sum);
}

}  // namespace adaptinf::kmeans::cuda
