// What the kernels share that compute the same bits as a CPU: sums in the order of lane8 by octets of lanes, order-free
// atomics, and phases, each a launch over problems with a team of blocks for each.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda_device.h"
#include "cuda_ptx.cuh"

namespace adaptinf::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kLanes = 32;
constexpr int kOctet = 8;  // lanes that add up one number over the columns
constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kLanes;

using Count = unsigned long long;  // what CUDA has 64-bit atomics for

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % kLanes; }
__device__ __forceinline__ int lane_of_octet() { return static_cast<int>(threadIdx.x) % kOctet; }

__device__ __forceinline__ void add_integer(int64_t* sum, int64_t value) {
  atomicAdd(reinterpret_cast<Count*>(sum), static_cast<Count>(value));
}

// Of numbers that are not negative, whose order is that of their bits.
__device__ __forceinline__ void raise(double* largest, double value) {
  atomicMax(reinterpret_cast<Count*>(largest), static_cast<Count>(__double_as_longlong(value)));
}

__device__ __forceinline__ void raise(float* largest, float value) {
  atomicMax(reinterpret_cast<int*>(largest), __float_as_int(value));
}

__device__ __forceinline__ double multiply(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }

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

__host__ __device__ inline int64_t bytes_of(DType dtype) { return (static_cast<int64_t>(dtype) & 0xff) / 8; }

// Entry t of a row of float64, float32, float16 or bfloat16.
__device__ __forceinline__ double value_at(const void* row, DType dtype, int64_t t) {
  if (dtype == DType::float64) return static_cast<const double*>(row)[t];
  if (dtype == DType::float32) return static_cast<const float*>(row)[t];
  const uint16_t bits = static_cast<const uint16_t*>(row)[t];
  if (dtype == DType::float16) return from_half(bits);
  return __int_as_float(static_cast<int>(static_cast<uint32_t>(bits) << 16));
}

// bfloat16, rounded to nearest, ties to even.
__device__ __forceinline__ uint16_t brain_bits(float value) {
  const uint32_t bits = static_cast<uint32_t>(__float_as_int(value));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

__device__ __forceinline__ float of_brain_bits(uint16_t bits) {
  return __int_as_float(static_cast<int>(uint32_t{bits} << 16));
}

// The blocks that work on one problem, and which of them this is.
struct Team {
  int64_t block, blocks;

  __device__ int64_t warp() const { return block * kWarps + threadIdx.x / kLanes; }
  __device__ int64_t warps() const { return blocks * kWarps; }
  __device__ int64_t thread() const { return block * kThreads + threadIdx.x; }
  __device__ int64_t threads() const { return blocks * kThreads; }
};

// Calls each(index, valid) by octets for 0 <= index < count, the four octets of a warp always together: those that are
// not valid have no vector, only a part in the shuffles.
template <class Each>
__device__ __forceinline__ void for_octets(const Team& team, int64_t count, const Each& each) {
  const int64_t per_warp = kLanes / kOctet;
  for (int64_t first = team.warp() * per_warp; first < count; first += team.warps() * per_warp) {
    const int64_t index = first + lane_of_warp() / kOctet;
    each(min(index, count - 1), index < count);
  }
}

// What run(state, problem, team, shared memory) of a phase does for each problem of 0 <= number < state.problems() that it
// does not skip, by gridDim.x blocks each. As many blocks are to fit on a multiprocessor at once as leave enough registers
// for no kernel to spill.
template <class Phase, class State>
__global__ void __launch_bounds__(kThreads, Phase::kBlocksAtOnce) run_phase(const __grid_constant__ State state) {
  for (int64_t number = blockIdx.y; number < state.problems(); number += gridDim.y) {
    if (Phase::skips(state, number)) continue;
    Phase::run(state, state.problem(number), {blockIdx.x, gridDim.x}, shared_bytes());
    __syncthreads();  // shared memory is the next problem's
  }
}

// A phase by the one block of a problem; what it wrote is there for the next one. Not inlined, so that each phase has the
// registers to itself.
template <class Phase, class State>
__attribute__((noinline)) __device__ void run_alone(const State& state, int64_t number) {
  Phase::run(state, state.problem(number), {0, 1}, shared_bytes());
  __syncthreads();
}

class Launcher {
 public:
  Launcher(int64_t device, uint64_t stream) : stream_(reinterpret_cast<cudaStream_t>(stream)) {
    const int index = static_cast<int>(device);
    check_cuda(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, index), "cudaDeviceGetAttribute");
    check_cuda(cudaDeviceGetAttribute(&max_y_, cudaDevAttrMaxGridDimY, index), "cudaDeviceGetAttribute");
  }

  cudaStream_t stream() const { return stream_; }

  // A phase of the state's problems, by at most so many blocks each.
  template <class Phase, class State>
  void phase(const State& state, int64_t blocks, int64_t shared = 0) const {
    const int64_t most = static_cast<int64_t>(processors_) * kBlocksPerProcessor;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(std::max<int64_t>(1, std::min(blocks, most))),
                          static_cast<unsigned>(std::min<int64_t>(state.problems(), max_y_)));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<size_t>(shared);
    config.stream = stream_;
    check_cuda(cudaFuncSetAttribute(run_phase<Phase, State>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)), "cudaFuncSetAttribute");
    check_cuda(cudaLaunchKernelEx(&config, run_phase<Phase, State>, state), "launching a kernel");
  }

 private:
  static constexpr int64_t kBlocksPerProcessor = 8;  // more than fit at once, so that none idles at the end for long

  cudaStream_t stream_;
  int processors_ = 0, max_y_ = 0;
};

// Parts of a workspace one after the other; with a null base only their sizes count.
class Parts {
 public:
  explicit Parts(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  void take(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t used() const { return used_; }

 private:
  static constexpr int64_t kAlignment = 256;

  char* base_;
  int64_t used_ = 0;
};

}  // namespace adaptinf::cuda
