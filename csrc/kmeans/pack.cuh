// Rows and clusters in bfloat16 for the tensor cores, with bounds on what the rounding cost.
//
// Both are multiplied by the problem's unit, the power of two that brings the largest |y_it| below 1.
#pragma once

#include "fit_state.cuh"

namespace adaptinf::kmeans::cuda {

__device__ __forceinline__ double unit_scale(const State& state, const Problem& p) {
  return reciprocal_power(state.work.reach[p.number]);
}

// What rounding did to a vector: bounds on the lengths of the difference, and of the vector and its rounding.
struct Rounding {
  float error, norm;
};

// By an octet: packed[0 .. padded] = bfloat16(value(t) scale), zeros from `columns` on.
template <class Value>
__device__ __forceinline__ Rounding pack(const Value& value, double scale, int64_t columns, int64_t padded, uint16_t* packed,
                                         int lane) {
  double errors = 0, squares = 0;
  for (int64_t t = lane; t < padded; t += kOctet) {
    const double scaled = t < columns ? multiply(value(t), scale) : 0;
    const uint16_t bits = brain_bits(static_cast<float>(scaled));
    const double error = scaled - of_brain_bits(bits);
    errors += error * error;
    squares += scaled * scaled;
    packed[t] = bits;
  }
  const double slack = 1 + 1e-9;  // of these float64 sums
  errors = sqrt(join_octet(errors)) * slack;
  return {__double2float_ru(errors), __double2float_ru(sqrt(join_octet(squares)) * slack + errors)};
}

// Unit rows' factors, and the largest |y_it|.
inline __device__ void measure_rows(const State& state, const Problem& p, const Team& team) {
  double largest = 0;
  for_octets(team, p.rows, [&](int64_t index, bool valid) {
    const int64_t row = p.first_row + index;
    Unit unit{1, 1};
    if (state.fit.spherical) {
      const Row x = row_of(state, p, row, unit);
      unit = unit_of([&](int64_t t) { return x.x(t); }, state.fit.columns, lane_of_octet());
      if (valid && lane_of_octet() == 0) state.work.units[row] = unit;
    }
    const Row y = row_of(state, p, row, unit);
    for (int64_t t = lane_of_octet(); t < state.fit.columns; t += kOctet) largest = fmax(largest, fabs(y(t)));
  });
  if (largest > 0) raise(state.work.reach + p.number, largest);
}

inline __device__ void pack_rows(const State& state, const Problem& p, const Team& team) {
  const double scale = unit_scale(state, p);
  for_octets(team, p.rows, [&](int64_t index, bool valid) {
    const int64_t row = p.first_row + index;
    const Row y = row_of(state, p, row);
    const Rounding by = pack(y, scale, state.fit.columns, valid ? state.padded : 0, state.work.rows + row * state.padded,
                             lane_of_octet());
    if (valid && lane_of_octet() == 0) {
      state.work.row_error[row] = by.error;
      state.work.row_norm[row] = by.norm;
    }
  });
}

// By an octet: a cluster's half square and its bfloat16, and the problem's bounds raised by it.
__device__ __forceinline__ void pack_cluster(const State& state, const Problem& p, int64_t cluster, bool valid) {
  const Cluster c = cluster_of(state, p, cluster);
  const double scale = unit_scale(state, p);
  const int64_t columns = valid ? state.fit.columns : 0;
  double squares = 0;
  for (int64_t t = lane_of_octet(); t < columns; t += kOctet) {
    const double value = c(t);
    squares = add(squares, multiply(value, value));
  }
  const double half = multiply(state.fit.spherical ? 0 : 0.5, join_octet(squares));
  const Rounding by = pack(c, scale, columns, valid ? state.padded : 0, state.work.clusters + cluster * state.padded,
                           lane_of_octet());
  if (!valid || lane_of_octet() != 0) return;
  const float screen = static_cast<float>(multiply(half, multiply(scale, scale)));
  state.work.half_squares[cluster] = half;
  state.work.half_screens[cluster] = screen;
  ClusterBounds* bounds = state.work.bounds + p.number;
  raise(&bounds->error, by.error);
  raise(&bounds->norm, by.norm);
  raise(&bounds->half, screen);  // infinite where products could be, which leaves every row undecided
}

}  // namespace adaptinf::kmeans::cuda
