// Rows of a tensor as float32, and the vectors that compute with them.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/tensor_view.h"
#include "../common/vector_math.h"
#include "../common/widen.h"

namespace adaptinf::token_sweep {

// `count` elements of a row, from `first` on, as float32.
ADAPTINF_ALWAYS void widen(const TensorView& view, int64_t row, int64_t first, int64_t count, float* target) {
  const int64_t at = (view.shape.size() == 2 ? row * view.strides[0] : 0) + first;
  if (view.dtype == DType::float32) {
    std::memcpy(target, static_cast<const float*>(view.data) + at, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  if (view.dtype == DType::bfloat16) {
    widen_row(static_cast<const BFloat16*>(view.data) + at, count, target);
  } else {
    widen_row(static_cast<const Float16*>(view.data) + at, count, target);
  }
}

}  // namespace adaptinf::token_sweep
