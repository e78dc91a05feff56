// Products of tiles in bfloat16 with float32 sums, by AVX512-BF16: its dot product takes pairs of values, so that tokens,
// panels and probabilities are laid out in pairs along the dimension that is summed over.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include "plan.h"
#include "vector_math.h"

namespace adaptinf::token_sweep {

#define ADAPTINF_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

struct BrainTiles {
  static constexpr int kLanes = 16, kGroup = 2 * kLanes;
  static constexpr int64_t kRows = 12;
  static constexpr int64_t kRowStride = kDepth / 2 + 16, kColumnStride = kDepth + 16;  // in pairs
  static constexpr bool kOnePacking = false;

  // tokens [depth / 2][group] of pairs along the depth. Exact: the values were bfloat16 before they were widened.
  static ADAPTINF_ALWAYS void put_token(const float* values, int64_t token, int64_t column, int64_t count, float* tokens) {
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = column + k;
      std::memcpy(reinterpret_cast<char*>(tokens + (at / 2) * kGroup + token) + 2 * (at % 2),
                  reinterpret_cast<const char*>(values + k) + 2, 2);
    }
  }

  // [rows][depth / 2] of pairs along the depth
  static ADAPTINF_ALWAYS void pack_for_rows(const TensorView& weight, int64_t first, int64_t last, int64_t column,
                                            int64_t columns, float* panel) {
    const int64_t width = std::min(columns, weight.shape[1] - column);
    for (int64_t row = 0; row < ceil_div(last - first, kPadding) * kPadding; ++row) {
      auto* target = reinterpret_cast<char*>(panel + row * kRowStride);
      const int64_t present = first + row < last ? width : 0;
      if (present > 0) std::memcpy(target, source(weight, first + row, column), static_cast<size_t>(2 * present));
      std::memset(target + 2 * present, 0, static_cast<size_t>(2 * (columns - present)));
    }
  }

  // [rows / 2][depth] of pairs of rows
  static ADAPTINF_ALWAYS void pack_for_columns(const TensorView& weight, int64_t first, int64_t last, int64_t column,
                                               int64_t columns, float* panel) {
    const int64_t width = std::min(columns, weight.shape[1] - column);
    for (int64_t row = first; row < last; row += 2) {
      float* target = panel + (row - first) / 2 * kColumnStride;
      const uint16_t* upper = source(weight, row, column);
      const uint16_t* lower = row + 1 < last ? source(weight, row + 1, column) : nullptr;
      for (int64_t k = 0; k < width; ++k) {
        const uint32_t pair = upper[k] | (lower == nullptr ? 0u : static_cast<uint32_t>(lower[k]) << 16);
        std::memcpy(target + k, &pair, sizeof pair);
      }
      std::fill(target + width, target + columns, 0.0f);
    }
  }

  ADAPTINF_AVX512_BF16 static void multiply_rows(const float* panel, int64_t row, const float* tokens, int64_t column,
                                                 int64_t columns, float* sums) {
    constexpr int64_t kPartial = 48;  // pairs
    const float* weight = panel + row * kRowStride;
    tokens += column / 2 * kGroup;
    for (int64_t first = 0; first < columns / 2; first += kPartial) {
      __m512 total[2 * kRows];
#pragma GCC unroll 32
      for (__m512& one : total) one = _mm512_setzero_ps();
      const int64_t last = std::min(columns / 2, first + kPartial);
      for (int64_t k = first; k < last; ++k) multiply(weight + k, kRowStride, tokens + k * kGroup, total);
      add(total, sums);
    }
  }

  // Rounds the probabilities to bfloat16, pairs of rows, in place. What a last row is paired with meets zeros in the panel.
  ADAPTINF_AVX512_BF16 static void narrow(float* tile, int64_t rows) {
    for (int64_t n = 0; n < rows; n += 2)
      for (int side = 0; side < kGroup; side += kLanes) {
        const __m512i upper = half(_mm512_loadu_ps(tile + n * kGroup + side));
        const __m512i lower = half(_mm512_loadu_ps(tile + (n + 1) * kGroup + side));
        _mm512_storeu_si512(tile + n / 2 * kGroup + side, _mm512_or_si512(upper, _mm512_maskz_slli_epi32(kAll, lower, 16)));
      }
  }

  ADAPTINF_AVX512_BF16 static void multiply_columns(const float* panel, int64_t column, const float* p, int64_t rows,
                                                    float* sums) {
    __m512 total[2 * kRows];
#pragma GCC unroll 32
    for (__m512& one : total) one = _mm512_setzero_ps();
    for (int64_t n = 0; n < (rows + 1) / 2; ++n) multiply(panel + n * kColumnStride + column, 1, p + n * kGroup, total);
    add(total, sums);
  }

 private:
  static constexpr __mmask16 kAll = 0xffff;  // some compilers warn of the intrinsics without a mask

  static ADAPTINF_ALWAYS const uint16_t* source(const TensorView& weight, int64_t row, int64_t column) {
    return static_cast<const uint16_t*>(weight.data) + row * weight.strides[0] + column;
  }

  // bfloat16 in the low half of each lane
  ADAPTINF_AVX512_BF16 static __m512i half(__m512 values) {
    return _mm512_maskz_cvtepu16_epi32(kAll, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
  }

  ADAPTINF_AVX512_BF16 static inline __attribute__((always_inline)) void multiply(const float* weight, int64_t stride,
                                                                                  const float* values,
                                                                                  __m512 (&total)[2 * kRows]) {
    const auto left = reinterpret_cast<__m512bh>(_mm512_load_ps(values));
    const auto right = reinterpret_cast<__m512bh>(_mm512_load_ps(values + kLanes));
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const auto factor = reinterpret_cast<__m512bh>(_mm512_set1_ps(weight[row * stride]));
      total[2 * row] = _mm512_dpbf16_ps(total[2 * row], left, factor);
      total[2 * row + 1] = _mm512_dpbf16_ps(total[2 * row + 1], right, factor);
    }
  }

  ADAPTINF_AVX512_BF16 static inline __attribute__((always_inline)) void add(const __m512 (&total)[2 * kRows], float* sums) {
#pragma GCC unroll 32
    for (int i = 0; i < 2 * kRows; ++i) {
      float* place = sums + kLanes * i;
      _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), total[i]));
    }
  }
};

}  // namespace adaptinf::token_sweep

#endif
