#include "packing.h"

#include <cmath>
#include <limits>

#include "../common/parallel.h"

namespace adaptinf::kmeans {

namespace {

// The least bfloat16 that is not below; a NaN stays one.
uint32_t brain_up(float value) {
  const uint32_t bits = bits_of(value);
  return std::isnan(value) ? bits >> 16 | 1 : (bits + 0xffff) >> 16;
}

}  // namespace

Slack Packing::put(double first, double second, uint32_t* out) const {
  // never below the normal numbers, which a dot product of bfloat16 would take for zero
  constexpr double kLeast = 0x1p-100, kUp = 1 + 0x1p-22;
  const auto a = static_cast<float>(std::max(first, kLeast) * kUp), b = static_cast<float>(std::max(second, kLeast) * kUp);
  if (!kernels_.brain) {
    out[0] = bits_of(a), out[1] = bits_of(b);
  } else {
    out[0] = brain_up(a) | brain_up(b) << 16;
  }
  return slack(out, 1);
}

double Packing::row(const Rows& rows, int64_t row, double* y, uint32_t* out) const {
  const Norms norms = kernels_.pack_row(rows, row, scale_, y, out);
  double a = (likely_ * norms.residual + growth * norms.packed) * kMargin, b = likely_ * norms.packed * kMargin;
  if (!(norms.whole < kLongest)) {
    std::memset(out, 0, static_cast<size_t>(data_words_) * sizeof *out);
    a = b = std::numeric_limits<double>::quiet_NaN();
  }
  put(a, b, out + data_words_);
  return norms.whole;
}

Slack Packing::centroid(const double* c, uint32_t* scratch, uint32_t* out, int64_t stride, double* norm) const {
  const Norms norms = kernels_.pack(c, scale_, columns_, scratch);
  *norm = norms.whole;
  const bool counts = norms.whole < kLongest;
  const Slack slack = put(counts ? std::max(norms.whole, norms.packed) * kMargin : 0, counts ? norms.residual * kMargin : 0,
                          scratch + data_words_);
  for (int64_t word = 0; word < words; ++word) out[word * stride] = scratch[word];
  return slack;
}

void pack_tiles(const Kernels& kernels, const Packing& packing, const Rows& rows, uint32_t* tiles, float* norms,
                int threads) {
  constexpr int64_t kTiles = 16;  // of a task
  constexpr int64_t kAhead = 8;   // rows whose memory is asked for before they are read
  const int64_t height = kernels.tile_rows, words = packing.words, n_tiles = (rows.count + height - 1) / height;
  parallel_for((n_tiles + kTiles - 1) / kTiles, threads, [&](int64_t task) {
    const Buffer<double> y(rows.padded);
    const Buffer<uint32_t> apart(height * words);
    for (int64_t tile = task * kTiles; tile < std::min(n_tiles, (task + 1) * kTiles); ++tile) {
      const int64_t first = tile * height, count = std::min(height, rows.count - first);
      const uint32_t* row_words[kMaxTileRows];
      for (int64_t r = 0; r < count; ++r) {
        uint32_t* to = apart.get() + r * words;
        if (first + r + kAhead < rows.count) rows.prefetch(first + r + kAhead);
        norms[first + r] = static_cast<float>(packing.row(rows, first + r, y.get(), to));
        row_words[r] = to;
      }
      std::fill(row_words + count, row_words + height, row_words[0]);
      kernels.transpose(row_words, words, tiles + first * words);
    }
  });
}

}  // namespace adaptinf::kmeans
