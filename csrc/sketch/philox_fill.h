// What the native module fills from Philox words. The definitions are those of kernels/adaptinf_kernels/{philox,signs}.
#pragma once

#include <cstdint>

#include "../common/cpu_features.h"
#include "../common/tensor_view.h"
#include "philox.h"

namespace adaptinf {

// out int64 [count, 4]: the words at counters (n low, n high, word2, word3), n = start + row of out.
struct Words {
  PhiloxKey key;
  uint64_t start;
  uint32_t word2, word3;
};

// out int8 [rows, columns]: the signs of rows `row` on and columns `column` on.
struct Signs {
  PhiloxKey key;
  uint32_t domain;
  uint64_t row, column;
};

void fill_words_cpu(const Words& words, const TensorView& out, CpuLevel level);
void fill_signs_cpu(const Signs& signs, const TensorView& out, CpuLevel level);

// On the stream of that handle (0: the default stream); they return before the device has finished.
void fill_words_cuda(const Words& words, const TensorView& out, uint64_t stream);
void fill_signs_cuda(const Signs& signs, const TensorView& out, uint64_t stream);

}  // namespace adaptinf
