// In the place of CUDA's header: the language and the runtime calls that the kernels of csrc/ use, for a C++ compiler.
// All shared memory is dynamic, lanes of a warp are always all 32, a device pointer is a pointer.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)

using cuda_shim::blockDim;
using cuda_shim::blockIdx;
using cuda_shim::gridDim;
using cuda_shim::threadIdx;
using std::max;
using std::min;

namespace cuda_shim {
alignas(128) inline unsigned char shared_memory[kSharedBytes];
}

// ---- in kernels

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using namespace cuda_shim;
  const int here = site("__syncthreads", file, line);
  if (here >= 0) meet(shim.block, shim.threads, here, "__syncthreads");
}

inline void __syncwarp(unsigned mask = ~0u, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using namespace cuda_shim;
  if (mask != ~0u) die("__syncwarp of a part of a warp");
  const int here = site("__syncwarp", file, line);
  if (here >= 0) meet(warp(), kWarp, here, "__syncwarp");
}

namespace cuda_shim {

// The value that lane `from` gives.
template <class T>
T from_lane(unsigned mask, T value, int from, const char* what) {
  static_assert(sizeof(T) <= 8);
  if (mask != ~0u) die("lanes of a part of a warp");
  uint32_t words[2] = {};
  std::memcpy(words, &value, sizeof(T));
  exchange(words, 2, kMaxSites, what);
  T result;
  std::memcpy(&result, peer(from & 31), sizeof(T));
  return result;
}

}  // namespace cuda_shim

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  return cuda_shim::from_lane(mask, value, from, "__shfl_sync");
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return cuda_shim::from_lane(mask, value, cuda_shim::lane() ^ bits, "__shfl_xor_sync");
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
  if (mask != ~0u) cuda_shim::die("lanes of a part of a warp");
  const uint32_t word = predicate;
  cuda_shim::exchange(&word, 1, cuda_shim::kMaxSites, "__ballot_sync");
  unsigned result = 0;
  for (int lane = 0; lane < 32; ++lane) result |= cuda_shim::peer(lane)[0] << lane;
  return result;
}

template <class T>
T atomicAdd(T* address, T value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicMax(T* address, T value) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <class T>
T atomicMin(T* address, T value) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

template <class T>
T atomicCAS(T* address, T expected, T value) {
  __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

// Products and sums are rounded one by one: the build has -ffp-contract=off.
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline long long __double2ll_rn(double a) { return std::llrint(a); }
inline float __double2float_ru(double a) {
  const float f = static_cast<float>(a);
  return f < a ? std::nextafterf(f, INFINITY) : f;
}
inline float __double2float_rd(double a) { return -__double2float_ru(-a); }
inline float __fmul_ru(float a, float b) { return __double2float_ru(static_cast<double>(a) * b); }
inline float __fadd_ru(float a, float b) { return __double2float_ru(static_cast<double>(a) + b); }
template <class To, class From>
To cuda_shim_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}
inline long long __double_as_longlong(double a) { return cuda_shim_bits<long long>(a); }
inline double __longlong_as_double(long long a) { return cuda_shim_bits<double>(a); }
inline int __float_as_int(float a) { return cuda_shim_bits<int>(a); }
inline float __int_as_float(int a) { return cuda_shim_bits<float>(a); }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline int __ffsll(long long a) { return __builtin_ffsll(a); }

// ---- on the host

struct dim3 : cuda_shim::Index {
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) { x = x_, y = y_, z = z_; }
};
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxGridDimY };
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
};

inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorInvalidValue"; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  *attributes = {cudaMemoryTypeDevice, 0};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 1 : 2;  // so few that blocks take several turns
  return cudaSuccess;
}
namespace cuda_shim {
inline int64_t waits = 0;     // of the host for the device
inline int64_t launches = 0;  // of kernels
}  // namespace cuda_shim
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return ++cuda_shim::waits, cudaSuccess; }
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}

namespace cuda_shim {
inline std::map<const void*, size_t> shared_limits;
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int bytes) {
  if (static_cast<size_t>(bytes) > cuda_shim::kSharedBytes) return cudaErrorInvalidValue;
  cuda_shim::shared_limits[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(bytes);
  return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  using namespace cuda_shim;
  const size_t bytes = config->dynamicSmemBytes;
  const auto limit = shared_limits.find(reinterpret_cast<const void*>(kernel));
  if (bytes > std::max<size_t>(48 << 10, limit == shared_limits.end() ? 0 : limit->second)) return cudaErrorInvalidValue;
  const dim3 &grid = config->gridDim, &block = config->blockDim;
  if (grid.x == 0 || grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 || grid.z != 1) return cudaErrorInvalidValue;
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, {static_cast<Parameters>(arguments)...}};
  const auto body = [](void* pointer) {
    const Call& call = *static_cast<const Call*>(pointer);
    std::apply(call.kernel, call.arguments);
  };
  ++launches;
  run_grid(grid, block, body, &call, [bytes] {
    unsigned char* shared = shared_memory;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(shared, kSharedBytes);
#endif
    std::memset(shared, 0xff, kSharedBytes);  // not-a-numbers, for those who read before they write
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(shared + bytes, kSharedBytes - bytes);
#endif
  });
  return cudaSuccess;
}
