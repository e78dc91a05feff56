// The numbers of k-means on a device, as kernels/adaptinf_kernels/kmeans/arithmetic.py defines them: float64, every
// product rounded before it is added, columns added in the order of lane8.
#pragma once

#include "../common/cuda_team.cuh"
#include "fit_cuda.h"

namespace adaptinf::kmeans::cuda {

using namespace adaptinf::cuda;

__device__ __forceinline__ int64_t rounded(double value) { return __double2ll_rn(value); }

// 2^-e, 2^(e-1) <= value < 2^e; 1 for 0. For values of float32 and of quotients of integers of 62 bits.
__device__ __forceinline__ double reciprocal_power(double value) {
  if (value == 0) return 1;
  const long long biased = __double_as_longlong(value) >> 52;
  return __longlong_as_double((1023 + 1022 - biased) << 52);
}

// What makes a row a unit row: its entries times power, divided by length.
struct Unit {
  double power, length;
};

// One row y_i of a problem.
struct Row {
  const void* data;
  DType dtype;
  const double* origin;  // null: a unit row
  Unit unit;

  __device__ __forceinline__ double x(int64_t t) const { return value_at(data, dtype, t); }
  __device__ __forceinline__ double operator()(int64_t t) const {
    return origin != nullptr ? x(t) - origin[t] : multiply(x(t), unit.power) / unit.length;
  }
};

// lane8 of the squares and the largest magnitude of an octet's row make it a unit row.
template <class Value>
__device__ Unit unit_of(const Value& value, int64_t columns, int lane) {
  double largest = 0;
  for (int64_t t = lane; t < columns; t += kOctet) largest = fmax(largest, fabs(value(t)));
  const double power = reciprocal_power(largest_of_octet(largest));
  double squares = 0;
  for (int64_t t = lane; t < columns; t += kOctet) {
    const double scaled = multiply(value(t), power);
    squares = add(squares, multiply(scaled, scaled));
  }
  const double length = sqrt(join_octet(squares));
  return {power, length == 0 ? 1 : length};
}

}  // namespace adaptinf::kmeans::cuda
