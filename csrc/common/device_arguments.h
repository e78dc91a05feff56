// Tensors on a CUDA device as the functions of Python's module get them, checked before a kernel touches them.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tensor_view.h"

namespace adaptinf {

// Contiguous tensors on the device of x, collected for the check of their memory.
class DeviceArguments {
 public:
  explicit DeviceArguments(const TensorView& x) : index_(x.device_index) { add("x", x); }

  template <class T>
  T* take(const char* name, const Arguments& arguments, DType dtype, const std::vector<int64_t>& shape, Access access) {
    const TensorView view = checked_view(name, arguments, {dtype}, shape.size(), access);
    const std::string who(name);
    if (view.shape != shape) {
      std::string wanted;
      for (const int64_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
      fail(who + ": must be [" + wanted + "]");
    }
    if (shape.size() == 2 && shape[0] > 1 && shape[1] > 0 && view.strides[0] != shape[1]) fail(who + ": must be contiguous");
    add(name, view);
    return static_cast<T*>(view.data);
  }
  const double* doubles(const char* name, const Arguments& arguments, const std::vector<int64_t>& shape) {
    return take<const double>(name, arguments, DType::float64, shape, Access::read);
  }
  int64_t* integers(const char* name, const Arguments& arguments, const std::vector<int64_t>& shape) {
    return take<int64_t>(name, arguments, DType::int64, shape, Access::write);
  }

  // Fails for what is not in the memory of the device that it claims: one of these kills the CUDA context of the process.
  void check_memory() const;

 private:
  void add(const char* name, const TensorView& view) {
    if (view.device != DeviceType::cuda || view.device_index != index_)
      fail(std::string(name) + ": must be on the CUDA device of x");
    views_.emplace_back(name, view);
  }

  int64_t index_;
  std::vector<std::pair<const char*, TensorView>> views_;
};

inline void check_bounds(const char* name, const std::vector<int64_t>& bounds, int64_t total) {
  const std::string who(name);
  if (bounds.empty() || bounds.front() != 0 || bounds.back() != total)
    fail(who + ": must run from 0 to " + std::to_string(total));
  if (!std::is_sorted(bounds.begin(), bounds.end())) fail(who + ": must not fall");
}

}  // namespace adaptinf
