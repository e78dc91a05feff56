// The numbers of k-means on a device, as kernels/adaptinf_kernels/kmeans/arithmetic.py defines them: float64, every
// product rounded before it is added, columns added in the order of lane8.
#pragma once

#include <cuda_runtime.h>

#include "../common/cuda_ptx.cuh"
#include "fit_cuda.h"

namespace adaptinf::kmeans::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kLanes = 32;
constexpr int kOctet = 8;  // lanes that add up one number over the columns

using Count = unsigned long long;  // what CUDA has 64-bit atomics for

__device__ __forceinline__ void add_integer(int64_t* sum, int64_t value) {
  atomicAdd(reinterpret_cast<Count*>(sum), static_cast<Count>(value));
}

// Of doubles that are not negative, whose order is that of their bits.
__device__ __forceinline__ void raise(double* largest, double value) {
  atomicMax(reinterpret_cast<Count*>(largest), static_cast<Count>(__double_as_longlong(value)));
}

__device__ __forceinline__ void raise(float* largest, float value) {
  atomicMax(reinterpret_cast<int*>(largest), __float_as_int(value));
}

__device__ __forceinline__ double multiply(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }

__device__ __forceinline__ int64_t rounded(double value) { return __double2ll_rn(value); }

// 2^-e, 2^(e-1) <= value < 2^e; 1 for 0. For values of float32 and of quotients of integers of 62 bits.
__device__ __forceinline__ double reciprocal_power(double value) {
  if (value == 0) return 1;
  const long long biased = __double_as_longlong(value) >> 52;
  return __longlong_as_double((1023 + 1022 - biased) << 52);
}

// The end of lane8: lane l of an octet has accumulator l; all get the sum.
__device__ __forceinline__ double join_octet(double accumulator) {
  for (int bits = 4; bits > 0; bits /= 2) accumulator = add(accumulator, __shfl_xor_sync(kFullWarp, accumulator, bits));
  return accumulator;
}

__device__ __forceinline__ double largest_of_octet(double value) {
  for (int bits = 4; bits > 0; bits /= 2) {
    const double other = __shfl_xor_sync(kFullWarp, value, bits);
    value = value < other ? other : value;
  }
  return value;
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

  __device__ __forceinline__ double x(int64_t t) const {
    if (dtype == DType::float32) return static_cast<const float*>(data)[t];
    const uint16_t bits = static_cast<const uint16_t*>(data)[t];
    if (dtype == DType::float16) return from_half(bits);
    return __int_as_float(static_cast<int>(static_cast<uint32_t>(bits) << 16));
  }
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
