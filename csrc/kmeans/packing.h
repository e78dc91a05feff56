// Rows and centroids as the screen takes them, with what its certificate needs.
//
// Row i and centroid j are scaled by one power of two and rounded, y = y' + r and c = c' + s. The screen computes
//   U_ij = o_j + y'_i . c'_j + a_i n_j + b_i s_j,   o_j = e_j - h_j,
// an upper bound on -score_ij = y_i . c_j - h_j whose excess is at most 2 E_ij, E_ij = a_i n_j + b_i s_j + e_j:
//   |y . c - y' . c'| <= |r| |c| + |y'| |s|                         by Cauchy and Schwarz,
//   |computed - exact| <= g (|h| + |y'| |c'| + E), g = terms 2^-24     for sums of `terms` float32, in any order,
// so a_i >= |r_i| + 2 g |y'_i|, b_i >= |y'_i|, n_j >= max(|c_j|, |c'_j|), s_j >= |s_j|, e_j >= 2 g h_j + `kFlushed` per
// term; a margin of 1/64 on each covers g E and the roundings of these numbers themselves. The rounding of the float64
// score that the screen stands for is far below the second g.
//
// `fast` takes less for a_i and b_i: roundings of d columns are not all to one side, so that |r . c| is rarely more than
// 4 |r| |c| / sqrt(d). E is then likely, not sure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "memory.h"

namespace adaptinf::kmeans {

constexpr double kMargin = 1 + 1.0 / 64;
constexpr double kLongest = 0x1p60;   // scaled norms beyond it are not screened
constexpr double kFlushed = 0x1p-120; // what a term may lose because it is below the normal numbers

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The least float32 that is not below a number. That of what is too large for float32 is infinity or, below zero, the lowest
// finite one; what is no number stays so.
inline float rounded_up(double value) {
  const auto near = static_cast<float>(value);
  if (!(near < value)) return near;
  if (near == 0) return 0x1p-149f;
  const uint32_t next = near > 0 ? bits_of(near) + 1 : bits_of(near) - 1;
  float above;
  std::memcpy(&above, &next, sizeof above);
  return above;
}

// The largest that is not above.
inline float rounded_down(double value) { return -rounded_up(-value); }

// The certificate's share of a row.
struct Slack {
  float a, b;
};

// The layout of a packed row or centroid: columns, then a_i and b_i or n_j and s_j.
class Packing {
 public:
  Packing(const Kernels& kernels, int64_t columns, double scale, bool fast)
      : kernels_(kernels), columns_(columns), scale_(scale),
        likely_(fast ? std::min(1.0, 4 / std::sqrt(static_cast<double>(columns))) : 1.0),
        data_words_(kernels.brain ? (columns + 1) / 2 : columns),
        words(data_words_ + (kernels.brain ? 1 : 2)), growth(2 * (2 * words + 4) * 0x1p-24) {}

  double scale() const { return scale_; }

  // Packs a row and gives its scaled norm, rounded; `growth` is the 2 g of above, y [padded] scratch.
  double row(const Rows& rows, int64_t row, double* y, uint32_t* out) const;

  // Packs a centroid, `stride` words from one of its words to the next; `scratch` holds `words`. Gives n_j and s_j.
  Slack centroid(const double* c, uint32_t* scratch, uint32_t* out, int64_t stride, double* norm) const;

  // Where a and b are among the words of a packed row; `at` points there, `stride` words from one word to the next.
  int64_t slack_word() const { return data_words_; }
  Slack slack(const uint32_t* at, int64_t stride) const {
    uint32_t words[2] = {at[0], 0};
    if (kernels_.brain) words[1] = words[0] & 0xffff0000u, words[0] <<= 16;
    else words[1] = at[stride];
    Slack found;
    std::memcpy(&found, words, sizeof found);
    return found;
  }

 private:
  Slack put(double first, double second, uint32_t* out) const;

  const Kernels& kernels_;
  int64_t columns_;
  double scale_, likely_;
  int64_t data_words_;

 public:
  const int64_t words;
  const double growth;
};

// Packs all rows as tiles [tile][words][tile_rows], the last one filled up; norms [rows]: their scaled norms, rounded.
void pack_tiles(const Kernels& kernels, const Packing& packing, const Rows& rows, uint32_t* tiles, float* norms,
                int threads);

}  // namespace adaptinf::kmeans
