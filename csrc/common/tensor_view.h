// A tensor as plain numbers, and the checks that make it safe to touch.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace adaptinf {

// Numbers of DLPack: type code (0 int, 1 uint, 2 float, 4 bfloat) << 8 | bits; device type 1 CPU, 2 CUDA.
enum class DType : int64_t { int8 = 0 << 8 | 8, int64 = 0 << 8 | 64 };
enum class DeviceType : int64_t { cpu = 1, cuda = 2 };

struct TensorView {
  void* data;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements
  DType dtype;
  DeviceType device;
  int64_t device_index;
};

[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }

inline int64_t checked_product(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) fail(std::string(what) + " overflows 64 bits");
  return product;
}

// A row-major matrix whose rows are contiguous and do not overlap.
inline TensorView matrix_view(const char* name, uint64_t pointer, const std::vector<int64_t>& shape,
                              const std::vector<int64_t>& strides, int64_t dtype, DType expected, int64_t device_type,
                              int64_t device_index) {
  const std::string who(name);
  if (shape.size() != 2 || strides.size() != 2) fail(who + ": needs two sizes and two strides");
  if (shape[0] < 0 || shape[1] < 0) fail(who + ": a size is negative");
  if (dtype != static_cast<int64_t>(expected))
    fail(who + ": dtype code " + std::to_string(dtype) + " where " + std::to_string(static_cast<int64_t>(expected)) +
         " is needed");
  if (device_type != static_cast<int64_t>(DeviceType::cpu) && device_type != static_cast<int64_t>(DeviceType::cuda))
    fail(who + ": device type " + std::to_string(device_type) + " is neither 1 (CPU) nor 2 (CUDA)");
  if (device_index < 0 || device_index > std::numeric_limits<int>::max()) fail(who + ": device index out of range");

  const int64_t bytes = static_cast<int64_t>(static_cast<uint64_t>(dtype) & 0xff) / 8;
  if (shape[0] > 0 && shape[1] > 0) {
    if (shape[1] > 1 && strides[1] != 1) fail(who + ": the last stride must be 1");
    if (shape[0] > 1 && strides[0] < shape[1]) fail(who + ": rows overlap or run backwards");
    checked_product(shape[0], shape[1], name);
    const int64_t span = checked_product(shape[0] - 1, shape[0] > 1 ? strides[0] : 0, name);
    int64_t end = 0;
    if (__builtin_add_overflow(span, shape[1], &end)) fail(who + ": overflows 64 bits");
    const uint64_t length = static_cast<uint64_t>(checked_product(end, bytes, name));
    if (pointer == 0) fail(who + ": null pointer");
    if (pointer % static_cast<uint64_t>(bytes) != 0) fail(who + ": pointer is not aligned to its dtype");
    if (pointer > std::numeric_limits<uint64_t>::max() - length) fail(who + ": runs past the end of memory");
  }
  return {reinterpret_cast<void*>(pointer), shape,       strides, expected, static_cast<DeviceType>(device_type),
          device_index};
}

}  // namespace adaptinf
