// What csrc/common/cuda_ptx.cuh says in PTX, said for the CPU.
#pragma once

#include "cuda_runtime.h"

namespace adaptinf {

inline unsigned char* shared_bytes() { return cuda_shim::shared_memory; }

// Eight products and a sum as tensor cores add them, or a little worse: all are aligned to the largest and cut off
// below 24 bits, and so is the result (Fasi, Higham, Mikaitis & Pranesh 2021).
inline float add_truncated(const float (&a)[8], const float (&b)[8], float sum) {
  double terms[9], largest = 0;
  for (int i = 0; i < 9; ++i) {
    terms[i] = i == 8 ? static_cast<double>(sum) : static_cast<double>(a[i]) * b[i];
    if (!std::isfinite(terms[i])) return static_cast<float>(terms[i] * 0);
    largest = std::max(largest, std::fabs(terms[i]));
  }
  if (largest == 0) return 0;
  int exponent = 0;
  std::frexp(largest, &exponent);
  const double quantum = std::ldexp(1.0, exponent - 24);
  double total = 0;
  for (const double term : terms) total += std::trunc(term / quantum) * quantum;
  const float rounded = static_cast<float>(total);
  return std::fabs(rounded) > std::fabs(total) ? std::nextafterf(rounded, 0.0f) : rounded;
}

inline float brain_float(uint32_t word, int half) {
  return __int_as_float(static_cast<int>(half == 0 ? word << 16 : word & 0xffff0000u));
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: by the fragments of the PTX manual.
inline void mma_bf16_16x8x16(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using namespace cuda_shim;
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  exchange(words, 6, kMaxSites, "mma.sync");
  const int group = lane() / 4, pair = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = pair * 2 + i % 2, lower = i / 2;  // lower: rows 8 to 15
    for (int half = 0; half < 2; ++half) {               // columns 0 to 7 of A, then 8 to 15
      float left[8], right[8];
      for (int k = 0; k < 8; ++k) {
        left[k] = brain_float(peer(group * 4 + k / 2)[half * 2 + lower], k % 2);
        right[k] = brain_float(peer(column * 4 + k / 2)[4 + half], k % 2);
      }
      sums[i] = add_truncated(left, right, sums[i]);
    }
  }
}

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: lane l gives the address of row l % 8 of matrix l / 8.
inline void load_matrices(uint32_t (&words)[4], const void* row) {
  using namespace cuda_shim;
  const uint64_t address = reinterpret_cast<uint64_t>(row);
  if (address % 16 != 0) die("ldmatrix of a row that is not aligned to 16 bytes");
  const uint32_t shown[2] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
  exchange(shown, 2, kMaxSites, "ldmatrix");
  for (int i = 0; i < 4; ++i) {
    const uint32_t* where = peer(i * 8 + lane() / 4);
    const uint64_t start = where[0] | uint64_t{where[1]} << 32;
    std::memcpy(&words[i], reinterpret_cast<const char*>(start) + lane() % 4 * 4, 4);
  }
}

// cp.async.cg.shared.global of 16 bytes. The bytes are lost at once, and come when they are waited for.
inline void copy_async(void* shared, const void* global) {
  using namespace cuda_shim;
  if (reinterpret_cast<uint64_t>(shared) % 16 != 0 || reinterpret_cast<uint64_t>(global) % 16 != 0)
    die("cp.async that is not aligned to 16 bytes");
  std::memset(shared, 0xff, 16);
  shim.current->copies.push_back({shared, global, shim.current->groups});
}

inline void commit_copies() { ++cuda_shim::shim.current->groups; }

// Waits until at most `pending` groups of this thread's copies are under way.
template <int pending>
void wait_copies(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using namespace cuda_shim;
  if (site("wait_copies", file, line) < 0) return;
  std::vector<Copy>& copies = shim.current->copies;
  const int groups = shim.current->groups;
  std::vector<Copy> rest;
  for (const Copy& copy : copies)
    if (copy.group >= groups - pending) rest.push_back(copy);
    else std::memcpy(copy.to, copy.from, 16);
  copies.swap(rest);
}

inline int load_relaxed(const int* address) { return __atomic_load_n(address, __ATOMIC_RELAXED); }

// cvt.f32.f16
inline float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float value = exponent == 0    ? std::ldexp(static_cast<float>(mantissa), -24)
                : exponent == 31 ? (mantissa != 0 ? NAN : INFINITY)
                                 : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return bits & 0x8000 ? -value : value;
}

}  // namespace adaptinf
