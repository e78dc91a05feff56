// Vectors of float32 and their exponential. Templates that are inlined into functions compiled for an instruction set, of
// whose registers `Lanes` floats fill one.
#pragma once

#include <cstdint>
#include <cstring>

#include "always_inline.h"

namespace adaptinf {

template <int Lanes>
struct Vector {
  typedef float Float __attribute__((vector_size(4 * Lanes)));
  typedef int32_t Int __attribute__((vector_size(4 * Lanes)));
};

// What exp_nonpositive takes for 0: the smallest argument whose exponential is a normal float32.
constexpr float kSmallestExponent = -87.3f;

// x = max(x, kSmallestExponent), e = exp(x), and 0 for both where x lies below; x <= 0 or NaN. e is within 1 ulp: with
// n = round(x / ln 2) and r = x - n ln 2, exp(x) = 2^n (1 + r + r^2 q(r)), q a minimax polynomial of error 3e-9.
template <int Lanes>
ADAPTINF_ALWAYS void exp_nonpositive(typename Vector<Lanes>::Float& x, typename Vector<Lanes>::Float& e) {
  using Float = typename Vector<Lanes>::Float;
  using Int = typename Vector<Lanes>::Int;
  const Float zero{};
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  x = x < kSmallestExponent ? zero + kSmallestExponent : x;
  const Float shifted = x * 0x1.715476p+0f + to_integer;
  const Float n = shifted - to_integer;
  Float r = x - n * 0x1.62e400p-1f;  // ln 2 in two parts, the first short enough for n times it to be exact
  r = r - n * 0x1.7f7d1cp-20f;
  Float q = 0x1.6a2434p-10f * r + 0x1.1239e2p-7f;
  q = q * r + 0x1.5558f2p-5f;
  q = q * r + 0x1.555492p-3f;
  q = q * r + 0x1.fffffcp-2f;
  e = (q * r) * r + r + 1.0f;
  Int power;
  std::memcpy(&power, &shifted, sizeof power);
  power = (power + 127) << 23;
  Float scale;
  std::memcpy(&scale, &power, sizeof scale);
  e = e * scale;
  const auto gone = x == kSmallestExponent;
  e = gone ? zero : e;
  x = gone ? zero : x;
}

}  // namespace adaptinf
