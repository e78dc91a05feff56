// A tensor as plain numbers, and the checks that make it safe to touch.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace adaptinf {

// Numbers of DLPack: type code (0 int, 1 uint, 2 float, 4 bfloat) << 8 | bits; device type 1 CPU, 2 CUDA.
enum class DType : int64_t {
  int8 = 0 << 8 | 8,
  int32 = 0 << 8 | 32,
  int64 = 0 << 8 | 64,
  float16 = 2 << 8 | 16,
  float32 = 2 << 8 | 32,
  float64 = 2 << 8 | 64,
  bfloat16 = 4 << 8 | 16,
};
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

// The six numbers that `_native.view` makes of a tensor, as pybind11 passes them.
using Arguments = std::tuple<uint64_t, std::vector<int64_t>, std::vector<int64_t>, int64_t, int64_t, int64_t>;

enum class Access { read, write };  // what is only read may repeat its rows (stride 0)

inline int64_t checked_product(int64_t a, int64_t b, const char* what) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) fail(std::string(what) + " overflows 64 bits");
  return product;
}

// A tensor whose last stride is 1; its rows, and what they are nested in, may be apart, and must not overlap where it is
// written.
inline TensorView checked_view(const char* name, const Arguments& arguments, const std::vector<DType>& allowed,
                               size_t dimensions, Access access) {
  const auto& [pointer, shape, strides, dtype, device_type, device_index] = arguments;
  const std::string who(name);
  if (shape.size() != dimensions || strides.size() != dimensions)
    fail(who + ": needs " + std::to_string(dimensions) + " sizes and as many strides");
  for (const int64_t size : shape)
    if (size < 0) fail(who + ": a size is negative");
  bool known = false;
  for (const DType one : allowed) known = known || dtype == static_cast<int64_t>(one);
  if (!known) fail(who + ": dtype code " + std::to_string(dtype) + " is not one of those it takes");
  if (device_type != static_cast<int64_t>(DeviceType::cpu) && device_type != static_cast<int64_t>(DeviceType::cuda))
    fail(who + ": device type " + std::to_string(device_type) + " is neither 1 (CPU) nor 2 (CUDA)");
  if (device_index < 0 || device_index > std::numeric_limits<int>::max()) fail(who + ": device index out of range");

  const int64_t bytes = (dtype & 0xff) / 8;
  int64_t count = 1;
  for (const int64_t size : shape) count = size == 0 ? 0 : checked_product(count, size, name);
  if (count > 0) {
    if (shape.back() > 1 && strides.back() != 1) fail(who + ": the last stride must be 1");
    int64_t end = shape.back();
    for (size_t i = dimensions - 1; i-- > 0;) {
      if (shape[i] == 1) continue;
      if (strides[i] < (access == Access::write ? end : 0)) fail(who + ": rows overlap or run backwards");
      const int64_t span = checked_product(shape[i] - 1, strides[i], name);
      if (__builtin_add_overflow(span, end, &end)) fail(who + ": overflows 64 bits");
    }
    const uint64_t length = static_cast<uint64_t>(checked_product(end, bytes, name));
    if (pointer == 0) fail(who + ": null pointer");
    if (pointer % static_cast<uint64_t>(bytes) != 0) fail(who + ": pointer is not aligned to its dtype");
    if (pointer > std::numeric_limits<uint64_t>::max() - length) fail(who + ": runs past the end of memory");
  }
  return {reinterpret_cast<void*>(pointer),       shape,       strides, static_cast<DType>(dtype),
          static_cast<DeviceType>(device_type), device_index};
}

inline void must_be(const char* name, const TensorView& view, const std::vector<int64_t>& shape) {
  if (view.shape == shape) return;
  std::string wanted;
  for (const int64_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
  fail(std::string(name) + ": must be [" + wanted + "]");
}

}  // namespace adaptinf
