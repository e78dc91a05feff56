// Pieces of Walsh-Hadamard transforms on vectors of W floats, for one instruction set each: bodies that the caller's
// target compiles. H_k = H_(k/W) (x) H_W: the lowest levels act inside vectors, the others on whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "codes.h"

namespace adaptinf {

#define ADAPTINF_ALWAYS inline __attribute__((always_inline))

template <int W>
struct Simd {
  typedef float Vector __attribute__((vector_size(4 * W), may_alias));
};
template <int W>
using Vector = typename Simd<W>::Vector;

constexpr uint32_t kTerms = 64;  // ids summed before their sum is added to the others'

constexpr int log2_of(int64_t power) { return 63 - __builtin_clzll(static_cast<unsigned long long>(power)); }

// Row p is column p of H_W, row W + p its negative.
template <int W>
struct SignPatterns {
  alignas(64) float rows[2 * W][W];

  constexpr SignPatterns() : rows() {
    for (int row = 0; row < 2 * W; ++row)
      for (int lane = 0; lane < W; ++lane) {
        bool odd = row >= W;
        for (int bits = row & lane & (W - 1); bits != 0; bits &= bits - 1) odd = !odd;
        rows[row][lane] = odd ? -1.0f : 1.0f;
      }
  }

  const Vector<W>& operator[](uint32_t row) const { return *reinterpret_cast<const Vector<W>*>(rows[row]); }
};
template <int W>
inline constexpr SignPatterns<W> kSignPatterns{};

// H_R across R vectors.
template <int R, class V>
ADAPTINF_ALWAYS void butterflies(V (&v)[R]) {
#pragma GCC unroll 4
  for (int half = 1; half < R; half *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
      if ((i & half) == 0) {
        const V a = v[i], b = v[i + half];
        v[i] = a + b;
        v[i + half] = a - b;
      }
}

// CountSketch of `Tokens` rows, the levels inside vectors, and the topmost log2(Top) levels:
// out[i][b] for the n vectors b, from rows[i][id].
template <int W, int Tokens, int Top>
ADAPTINF_ALWAYS void spread(const BucketTable& table, int64_t n, const float* const* rows, Vector<W>* const* out) {
  const int64_t quarter = n / Top;
  const uint32_t* const start = table.start.data();
  const BucketTable::Entry* const entries = table.entries.data();
  for (int64_t b = 0; b < quarter; ++b) {
    Vector<W> sums[Tokens][Top];
#pragma GCC unroll 4
    for (int j = 0; j < Top; ++j) {
#pragma GCC unroll 4
      for (int i = 0; i < Tokens; ++i) sums[i][j] = Vector<W>{};
      uint32_t e = start[b + j * quarter];
      const uint32_t last = start[b + j * quarter + 1];
      for (const uint32_t stop = std::min(last, e + kTerms); e < stop; ++e) {
        const Vector<W>& pattern = kSignPatterns<W>[entries[e].pattern];
        const uint32_t id = entries[e].id;
#pragma GCC unroll 4
        for (int i = 0; i < Tokens; ++i) sums[i][j] += pattern * rows[i][id];
      }
      while (e < last) {  // many more ids than buckets: partial sums keep the rounding small
        Vector<W> part[Tokens] = {};
        for (const uint32_t stop = std::min(last, e + kTerms); e < stop; ++e) {
          const Vector<W>& pattern = kSignPatterns<W>[entries[e].pattern];
          const uint32_t id = entries[e].id;
#pragma GCC unroll 4
          for (int i = 0; i < Tokens; ++i) part[i] += pattern * rows[i][id];
        }
#pragma GCC unroll 4
        for (int i = 0; i < Tokens; ++i) sums[i][j] += part[i];
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Tokens; ++i) {
      butterflies<Top>(sums[i]);
#pragma GCC unroll 4
      for (int j = 0; j < Top; ++j) out[i][b + j * quarter] = sums[i][j];
    }
  }
}

// The topmost log2(R) levels of n vectors, in place.
template <int W, int R>
ADAPTINF_ALWAYS void top_levels(Vector<W>* p, int64_t n) {
  const int64_t stride = n / R;
  for (int64_t b = 0; b < stride; ++b) {
    Vector<W> v[R];
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) v[j] = p[b + j * stride];
    butterflies<R>(v);
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) p[b + j * stride] = v[j];
  }
}

// The levels of n vectors down to runs of `run` vectors, n / run a power of two, at most log2(MostRadix) at a time; in place.
template <int W, int MostRadix>
ADAPTINF_ALWAYS void levels_above(Vector<W>* p, int64_t n, int64_t run) {
  for (int64_t width = n; width > run;) {
    const int levels = log2_of(width / run), passes = (levels + log2_of(MostRadix) - 1) / log2_of(MostRadix);
    const int64_t radix = int64_t{1} << (levels + passes - 1) / passes;
    for (int64_t first = 0; first < n; first += width) {
      if (radix == 2)
        top_levels<W, 2>(p + first, width);
      else if (radix == 4)
        top_levels<W, 4>(p + first, width);
      else if (radix == 8)
        top_levels<W, 8>(p + first, width);
      else
        top_levels<W, MostRadix>(p + first, width);
    }
    width /= radix;
  }
}

// sum[b] += sum_i (the lowest log2(R) levels of g[i])[b] * (those of x[i])[b], for the n vectors b.
template <int W, int Tokens, int R>
ADAPTINF_ALWAYS void multiply_add(const Vector<W>* const* g, const Vector<W>* const* x, int64_t n, Vector<W>* sum) {
  for (int64_t b = 0; b < n; b += R) {
    Vector<W> total[R];
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) total[j] = Vector<W>{};
#pragma GCC unroll 4
    for (int i = 0; i < Tokens; ++i) {
      Vector<W> left[R], right[R];
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) left[j] = g[i][b + j];
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) right[j] = x[i][b + j];
      butterflies<R>(left);
      butterflies<R>(right);
#pragma GCC unroll 8
      for (int j = 0; j < R; ++j) total[j] += left[j] * right[j];
    }
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) sum[b + j] += total[j];
  }
}

// H_k of n vectors, in place.
template <int W>
ADAPTINF_ALWAYS void walsh_hadamard(Vector<W>* p, int64_t n) {
  levels_above<W, 8>(p, n, 1);
  for (int64_t b = 0; b < n; ++b) {
    const auto* values = reinterpret_cast<const float*>(p + b);
    Vector<W> sum{};
    for (uint32_t lane = 0; lane < W; ++lane) sum += kSignPatterns<W>[lane] * values[lane];
    p[b] = sum;
  }
}

}  // namespace adaptinf
