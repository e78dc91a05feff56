// For .cu files: turning CUDA's error codes into exceptions, and choosing the device of a tensor for a while.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "tensor_view.h"

namespace adaptinf {

inline void check_cuda(cudaError_t code, const char* doing) {
  if (code != cudaSuccess)
    throw std::runtime_error(std::string(doing) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")");
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int64_t index) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    check_cuda(cudaSetDevice(static_cast<int>(index)), "cudaSetDevice");
  }
  ~DeviceGuard() { cudaSetDevice(previous_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

// A host pointer handed to a kernel would kill the CUDA context of the whole process.
inline void check_device_pointer(const TensorView& view, const char* name) {
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, view.data), "cudaPointerGetAttributes");
  const bool reachable = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  if (!reachable) fail(std::string(name) + ": pointer is not in CUDA memory");
  if (attributes.type == cudaMemoryTypeDevice && attributes.device != view.device_index)
    fail(std::string(name) + ": pointer is in the memory of another CUDA device");
}

}  // namespace adaptinf
