// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011), for the host and for CUDA kernels.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ADAPTINF_INLINE __host__ __device__ __forceinline__
#else
#define ADAPTINF_INLINE inline __attribute__((always_inline))
#endif

namespace adaptinf {

struct PhiloxKey {
  uint32_t low, high;
};

// The ten rounds on `Lanes` counters side by side; plain loops that compilers turn into vector instructions.
template <int Lanes>
ADAPTINF_INLINE void philox4x32_10(uint32_t (&c0)[Lanes], uint32_t (&c1)[Lanes], uint32_t (&c2)[Lanes],
                                   uint32_t (&c3)[Lanes], PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    for (int lane = 0; lane < Lanes; ++lane) {
      const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0[lane];
      const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2[lane];
      c0[lane] = static_cast<uint32_t>(p1 >> 32) ^ c1[lane] ^ key.low;
      c2[lane] = static_cast<uint32_t>(p0 >> 32) ^ c3[lane] ^ key.high;
      c1[lane] = static_cast<uint32_t>(p1);
      c3[lane] = static_cast<uint32_t>(p0);
    }
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
}

}  // namespace adaptinf
