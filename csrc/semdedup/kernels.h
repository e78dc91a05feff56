// The inner loops of semantic de-duplication, once per instruction set. All work on one thread and on memory that is theirs.
// What `unit` and `dot` give is the same on every set, bit by bit; what `center` and `screen` give is near enough for a proof.
#pragma once

#include <cstdint>

#include "../common/cpu_features.h"

namespace adaptinf::semdedup {

constexpr int64_t kPad = 16;   // a unit row is padded with zeros to a multiple of so many floats
constexpr int64_t kQuad = 4;   // words of a packed row that stay together
constexpr int64_t kMaxTileRows = 12, kMaxTileColumns = 32;

// r = float32(scale * x) has entries below 1 (below 4 at the far end of float64), u = float32(r * inverse) has length 1.
struct Scaling {
  double scale, inverse;  // a zero row: 1, 0
};

// Of y = u - center: its length, that of what rounding took from it, and center . y.
struct Residual {
  double length, rounding, along;
};

struct Kernels {
  int64_t tile_rows, tile_columns;
  int64_t words;  // 32-bit words of a rounded row per kPad entries: 8 pairs of bfloat16, or 16 float32

  Scaling (*measure)(const float* x, int64_t count);
  Scaling (*measure_double)(const double* x, int64_t count);
  void (*unit)(const float* x, int64_t count, Scaling by, float* out, int64_t width);
  void (*unit_double)(const double* x, int64_t count, Scaling by, float* out, int64_t width);

  uint32_t (*hash)(const float* unit, int64_t width);
  double (*dot)(const float* a, const float* b, int64_t width);

  Residual (*center)(const float* unit, const float* center, int64_t width, uint32_t* out);

  // out [tile_rows][tile_columns] = bias[i] + rows . columns; bit j of hits[i] where out[i][j] >= thresholds[j]. Rows are
  // [words / kQuad][tile_rows][kQuad], columns [words][tile_columns].
  void (*screen)(const uint32_t* rows, const uint32_t* columns, int64_t words, const float* bias, const float* thresholds,
                 float* out, uint32_t* hits);
};

// With `brain`, the screen of avx512 is that of AVX512-BF16.
const Kernels& kernels(CpuLevel level, bool brain);

}  // namespace adaptinf::semdedup
