// Checks of what crosses from Python, for the bind.cpp of the ops on per-sample gradients.
#pragma once

#include <string>
#include <vector>

#include "source.h"

namespace adaptinf {

constexpr int64_t kMaxThreads = 4096;

inline Matrix readable(const char* name, const Arguments& arguments) {
  const TensorView view =
      checked_view(name, arguments, {DType::float32, DType::float16, DType::bfloat16}, 2, Access::read);
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be in the memory of the CPU");
  return Matrix(view);
}

inline void check_shape(const char* name, const Matrix& matrix, int64_t rows, int64_t columns) {
  if (matrix.rows != rows || matrix.columns != columns)
    fail(std::string(name) + ": must be [" + std::to_string(rows) + ", " + std::to_string(columns) + "]");
}

inline void check_bounds(const std::vector<int64_t>& bounds, int64_t tokens) {
  if (bounds.empty() || bounds.front() != 0 || bounds.back() != tokens) fail("bounds: must run from 0 to the tokens");
  for (size_t i = 1; i < bounds.size(); ++i)
    if (bounds[i] < bounds[i - 1]) fail("bounds: must not fall");
}

inline int checked_threads(int64_t threads) {
  if (threads < 1 || threads > kMaxThreads) fail("threads: must be from 1 to 4096");
  return static_cast<int>(threads);
}

}  // namespace adaptinf
