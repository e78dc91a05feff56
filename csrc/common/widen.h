// 16-bit floating-point numbers as float32, exactly; without branches, so that loops over them become vector instructions.
#pragma once

#include <cstdint>

#include "always_inline.h"

namespace adaptinf {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

ADAPTINF_ALWAYS float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

ADAPTINF_ALWAYS float widened(float value) { return value; }

ADAPTINF_ALWAYS float widened(BFloat16 value) { return as_float(static_cast<uint32_t>(value.bits) << 16); }

// Subnormal numbers come out of a subtraction: 2^-14 (1 + m) - 2^-14.
ADAPTINF_ALWAYS float widened(Float16 value) {
  const uint32_t magnitude = value.bits & 0x7fffu, sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  const float small = as_float((magnitude << 13) + (113u << 23)) - as_float(113u << 23);
  uint32_t small_bits;
  __builtin_memcpy(&small_bits, &small, 4);
  return as_float((magnitude >= 0x7c00u ? special : magnitude < 0x0400u ? small_bits : normal) | sign);
}

template <typename Source>
ADAPTINF_ALWAYS void widen_row(const Source* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = widened(from[i]);
}

}  // namespace adaptinf
