// Rows of a problem and the frame they are seen in.
#pragma once

#include <algorithm>

#include "../common/tensor_view.h"

namespace adaptinf::kmeans {

inline int64_t padded_to(int64_t columns, int64_t multiple) { return (columns + multiple - 1) / multiple * multiple; }

// y_i = x_i - origin, or x_i / |x_i| where `unit` is set (a zero row stays zero), in float64. See
// kernels/adaptinf_kernels/kmeans/README.md.
struct Rows {
  const void* data;
  DType dtype;
  int64_t step, count, columns, padded;  // `step` in elements; `padded` is `columns` padded to a multiple of 8
  const double* origin;                  // [padded], zeros beyond `columns`
  bool unit;

  int64_t element_bytes() const { return (static_cast<int64_t>(dtype) & 0xff) / 8; }
  int64_t bytes() const { return columns * element_bytes(); }
  const char* at(int64_t row) const { return static_cast<const char*>(data) + row * step * element_bytes(); }

  // Asks for the beginning of a row that will be read; what follows is then fetched by the processor itself.
  void prefetch(int64_t row) const {
    constexpr int64_t kLine = 64, kLines = 16;
    for (int64_t line = 0; line < std::min(kLines, (bytes() + kLine - 1) / kLine); ++line)
      __builtin_prefetch(at(row) + line * kLine);
  }

  Rows from(int64_t first, int64_t rows) const {
    Rows part = *this;
    if (rows > 0) part.data = at(first);
    part.count = rows;
    return part;
  }
};

}  // namespace adaptinf::kmeans
