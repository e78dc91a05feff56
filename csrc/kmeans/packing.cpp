#include "packing.h"

#include <cmath>
#include <limits>

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

}  // namespace adaptinf::kmeans
