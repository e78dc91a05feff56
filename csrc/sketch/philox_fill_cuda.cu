#include <algorithm>

#include "../common/cuda_device.h"
#include "philox_fill.h"

namespace adaptinf {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kSigns = 128;  // signs in one counter's four words
constexpr int64_t kMaxBlocks = int64_t{1} << 20;

__device__ __forceinline__ void philox(uint64_t counter, uint32_t word2, uint32_t word3, PhiloxKey key,
                                       uint32_t (&words)[4]) {
  uint32_t c0[1] = {static_cast<uint32_t>(counter)}, c1[1] = {static_cast<uint32_t>(counter >> 32)};
  uint32_t c2[1] = {word2}, c3[1] = {word3};
  philox4x32_10<1>(c0, c1, c2, c3, key);
  words[0] = c0[0];
  words[1] = c1[0];
  words[2] = c2[0];
  words[3] = c3[0];
}

__global__ void words_kernel(Words definition, int64_t* out, int64_t count, int64_t stride) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    uint32_t words[4];
    philox(definition.start + static_cast<uint64_t>(i), definition.word2, definition.word3, definition.key, words);
    for (int word = 0; word < 4; ++word) out[i * stride + word] = words[word];
  }
}

// A block takes kThreads counters of one row: each thread makes one counter's words, then all write side by side.
__global__ void signs_kernel(Signs definition, int8_t* out, int64_t rows, int64_t columns, int64_t stride, int64_t groups) {
  __shared__ uint32_t words[kThreads][4];
  const uint64_t first_counter = definition.column / kSigns;
  const int64_t skip = static_cast<int64_t>(definition.column % kSigns);
  for (int64_t tile = blockIdx.x; tile < rows * groups; tile += gridDim.x) {
    const int64_t row = tile / groups, group = tile % groups;
    uint32_t mine[4];
    philox(first_counter + static_cast<uint64_t>(group * kThreads + threadIdx.x),
           static_cast<uint32_t>(definition.row + static_cast<uint64_t>(row)), definition.domain, definition.key, mine);
    for (int word = 0; word < 4; ++word) words[threadIdx.x][word] = mine[word];
    __syncthreads();
    for (int64_t i = threadIdx.x; i < kThreads * kSigns; i += kThreads) {
      const int64_t column = group * kThreads * kSigns + i - skip;
      if (column >= 0 && column < columns) {
        const int bit = static_cast<int>(i % kSigns);
        out[row * stride + column] = (words[i / kSigns][bit / 32] >> (bit % 32)) & 1 ? -1 : 1;
      }
    }
    __syncthreads();
  }
}

cudaStream_t handle(uint64_t stream) { return reinterpret_cast<cudaStream_t>(stream); }

}  // namespace

void fill_words_cuda(const Words& words, const TensorView& out, uint64_t stream) {
  const DeviceGuard guard(out.device_index);
  check_device_pointer(out, "out");
  const int64_t blocks = std::min(kMaxBlocks, (out.shape[0] + kThreads - 1) / kThreads);
  words_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, handle(stream)>>>(words, static_cast<int64_t*>(out.data),
                                                                               out.shape[0], out.strides[0]);
  check_cuda(cudaGetLastError(), "launching words_kernel");
}

void fill_signs_cuda(const Signs& signs, const TensorView& out, uint64_t stream) {
  const DeviceGuard guard(out.device_index);
  check_device_pointer(out, "out");
  const int64_t skip = static_cast<int64_t>(signs.column % kSigns);
  const int64_t per_group = kThreads * kSigns;
  const int64_t groups = (skip + out.shape[1] + per_group - 1) / per_group;
  const int64_t blocks = std::min(kMaxBlocks, out.shape[0] * groups);
  signs_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, handle(stream)>>>(
      signs, static_cast<int8_t*>(out.data), out.shape[0], out.shape[1], out.strides[0], groups);
  check_cuda(cudaGetLastError(), "launching signs_kernel");
}

}  // namespace adaptinf
