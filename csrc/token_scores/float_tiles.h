// Products of tiles in float32, one token per vector lane; `Rows` rows of two registers fit the register file.
#pragma once

#include "plan.h"
#include "vector_math.h"

namespace adaptinf::token_sweep {

template <int Lanes, int Rows>
struct FloatTiles {
  using Float = typename Vector<Lanes>::Float;

  static constexpr int kGroup = 2 * Lanes;  // tokens side by side
  static constexpr int64_t kRows = Rows;
  static constexpr int64_t kStride = kDepth + 16;  // keeps the rows of a panel off the same cache sets
  static constexpr bool kOnePacking = true;        // pack_for_rows serves multiply_columns as well

  // tokens [depth][group] from a token's row, `count` values from `column` on.
  static ADAPTINF_ALWAYS void put_token(const float* values, int64_t token, int64_t column, int64_t count, float* tokens) {
    for (int64_t k = 0; k < count; ++k) tokens[(column + k) * kGroup + token] = values[k];
  }

  // Rows first to last (excluded) of the head in `columns` columns from `column` on, padded with zeros.
  static ADAPTINF_ALWAYS void pack_for_rows(const TensorView& weight, int64_t first, int64_t last, int64_t column,
                                            int64_t columns, float* panel) {
    const int64_t width = std::min(columns, weight.shape[1] - column);
    for (int64_t row = 0; row < ceil_div(last - first, kPadding) * kPadding; ++row) {
      float* target = panel + row * kStride;
      const int64_t present = first + row < last ? width : 0;
      widen(weight, first + row, column, present, target);
      std::fill(target + present, target + columns, 0.0f);
    }
  }

  static ADAPTINF_ALWAYS void pack_for_columns(const TensorView& weight, int64_t first, int64_t last, int64_t column,
                                               int64_t columns, float* panel) {
    pack_for_rows(weight, first, last, column, columns, panel);
  }

  // sums [Rows][group] += (rows of the panel from `row` on) * (rows of `tokens` from `column` on). Short partial sums keep
  // the error of long dot products that of blocked ones.
  static ADAPTINF_ALWAYS void multiply_rows(const float* panel, int64_t row, const float* tokens, int64_t column,
                                            int64_t columns, float* sums) {
    constexpr int64_t kPartial = 96;
    const float* weight = panel + row * kStride;
    tokens += column * kGroup;
    for (int64_t first = 0; first < columns; first += kPartial) {
      Float total[2 * Rows]{};
      const int64_t last = std::min(columns, first + kPartial);
      for (int64_t k = first; k < last; ++k) multiply(weight + k, kStride, tokens + k * kGroup, total);
      add(total, sums);
    }
  }

  // What the probabilities in a tile become for multiply_columns.
  static ADAPTINF_ALWAYS void narrow(float*, int64_t) {}

  // sums [Rows][group] += (columns of the panel from `column` on)^T * p, over `rows` rows.
  static ADAPTINF_ALWAYS void multiply_columns(const float* panel, int64_t column, const float* p, int64_t rows, float* sums) {
    Float total[2 * Rows]{};
    for (int64_t n = 0; n < rows; ++n) multiply(panel + n * kStride + column, 1, p + n * kGroup, total);
    add(total, sums);
  }

 private:
  // total [Rows][group] += weight [Rows] values [group]^T
  static ADAPTINF_ALWAYS void multiply(const float* weight, int64_t stride, const float* values, Float (&total)[2 * Rows]) {
    Float left, right;
    std::memcpy(&left, values, sizeof left);
    std::memcpy(&right, values + Lanes, sizeof right);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      const Float factor = weight[row * stride] - Float{};
      total[2 * row] += left * factor;
      total[2 * row + 1] += right * factor;
    }
  }

  static ADAPTINF_ALWAYS void add(const Float (&total)[2 * Rows], float* sums) {
#pragma GCC unroll 32
    for (int i = 0; i < 2 * Rows; ++i) {
      Float sum;
      std::memcpy(&sum, sums + Lanes * i, sizeof sum);
      sum += total[i];
      std::memcpy(sums + Lanes * i, &sum, sizeof sum);
    }
  }
};

}  // namespace adaptinf::token_sweep
