// Float64 in one defined order, for the instruction set for which kernels_table.h is included. A product is rounded before
// it is added on every processor: rounded() hides it from the compiler, which would else fuse the two.

constexpr int64_t kParts = 64 / ADAPTINF_VECTOR_BYTES;  // vectors of eight doubles
constexpr int64_t kDoubles = 8 / kParts;

using Doubles = double __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using LooseDoubles = double __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(8), may_alias));

ADAPTINF_ALWAYS Doubles load_doubles(const double* from) { return *reinterpret_cast<const LooseDoubles*>(from); }

ADAPTINF_ALWAYS Doubles rounded(Doubles value) {
#if defined(__x86_64__)
  __asm__("" : "+v"(value));
#else
  __asm__("" : "+m"(value));
#endif
  return value;
}

// Sums of eight doubles in the order of lane8.
ADAPTINF_ALWAYS double tree(const Doubles* sums) {
#if ADAPTINF_VECTOR_BYTES == 64
  const auto fours =
      __builtin_shufflevector(sums[0], sums[0], 0, 1, 2, 3) + __builtin_shufflevector(sums[0], sums[0], 4, 5, 6, 7);
  const auto twos = __builtin_shufflevector(fours, fours, 0, 1) + __builtin_shufflevector(fours, fours, 2, 3);
#elif ADAPTINF_VECTOR_BYTES == 32
  const Doubles fours = sums[0] + sums[1];
  const auto twos = __builtin_shufflevector(fours, fours, 0, 1) + __builtin_shufflevector(fours, fours, 2, 3);
#else
  const Doubles twos = (sums[0] + sums[2]) + (sums[1] + sums[3]);
#endif
  return twos[0] + twos[1];
}

double dot(const double* a, const double* b, int64_t padded) {
  Doubles sums[kParts]{};
  for (int64_t t = 0; t < padded; t += 8)
    for (int64_t part = 0; part < kParts; ++part) {
      const int64_t at = t + part * kDoubles;
      sums[part] += rounded(load_doubles(a + at) * load_doubles(b + at));
    }
  return tree(sums);
}

double squared_distance(const double* a, const double* b, int64_t padded) {
  Doubles sums[kParts]{};
  for (int64_t t = 0; t < padded; t += 8)
    for (int64_t part = 0; part < kParts; ++part) {
      const int64_t at = t + part * kDoubles;
      const Doubles away = load_doubles(a + at) - load_doubles(b + at);
      sums[part] += rounded(away * away);
    }
  return tree(sums);
}

void to_unit(double* y, int64_t padded) {
  double largest = 0;
  for (int64_t t = 0; t < padded; ++t) largest = std::fabs(y[t]) > largest ? std::fabs(y[t]) : largest;
  if (largest == 0) return;
  int exponent;
  std::frexp(largest, &exponent);
  const int half = exponent >> 1;  // 2^1024 is no float64, but its root is
  const double first = std::ldexp(1.0, -half), second = std::ldexp(1.0, half - exponent);
  for (int64_t t = 0; t < padded; ++t) y[t] = y[t] * first * second;
  const double length = std::sqrt(dot(y, y, padded));
  for (int64_t t = 0; t < padded; ++t) y[t] /= length;
}

template <class Element>
ADAPTINF_ALWAYS void shifted(const Element* __restrict from, int64_t columns, const double* __restrict origin,
                             double* __restrict y) {
  for (int64_t t = 0; t < columns; ++t) y[t] = static_cast<double>(from[t]) - origin[t];
}

void load(const Rows& rows, int64_t row, double* y) {
  const int64_t at = row * rows.step;
  if (rows.dtype == DType::float32) {
    shifted(static_cast<const float*>(rows.data) + at, rows.columns, rows.origin, y);
  } else if (rows.dtype == DType::float64) {
    shifted(static_cast<const double*>(rows.data) + at, rows.columns, rows.origin, y);
  } else {
    static const auto widen = adaptinf::kernels(kLevel).widen;
    constexpr int64_t kStretch = 256;
    float values[kStretch];
    for (int64_t first = 0; first < rows.columns; first += kStretch) {
      const int64_t count = std::min(kStretch, rows.columns - first);
      widen(static_cast<const uint16_t*>(rows.data) + at + first, rows.dtype, count, 1, count, values, count);
      shifted(values, count, rows.origin + first, y + first);
    }
  }
  for (int64_t t = rows.columns; t < rows.padded; ++t) y[t] = 0;
  if (rows.unit) to_unit(y, rows.padded);
}

// Eight columns of a float32 row less the origin.
ADAPTINF_ALWAYS Doubles framed(const float* x, const double* origin, int64_t t) {
#if ADAPTINF_VECTOR_BYTES == 64  // the compiler would convert it in two halves
  return reinterpret_cast<Doubles>(_mm512_cvtps_pd(_mm256_loadu_ps(x + t))) - load_doubles(origin + t);
#else
  using Few = float __attribute__((vector_size(4 * kDoubles), aligned(4), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const Few*>(x + t), Doubles) - load_doubles(origin + t);
#endif
}

void two_dots(const Rows& rows, int64_t row, const double* a, const double* b, double (&dots)[2], double* y) {
  if (rows.dtype == DType::float32 && !rows.unit && rows.columns == rows.padded) {
    const auto* x = reinterpret_cast<const float*>(rows.at(row));
    Doubles first[kParts]{}, second[kParts]{};
    for (int64_t t = 0; t < rows.padded; t += 8)
      for (int64_t part = 0; part < kParts; ++part) {
        const int64_t at = t + part * kDoubles;
        const Doubles value = framed(x, rows.origin, at);
        first[part] += rounded(value * load_doubles(a + at)), second[part] += rounded(value * load_doubles(b + at));
      }
    dots[0] = tree(first), dots[1] = tree(second);
    return;
  }
  load(rows, row, y);
  dots[0] = dot(y, a, rows.padded), dots[1] = dot(y, b, rows.padded);
}

double row_distance(const Rows& rows, int64_t row, const double* c, double* y) {
  if (rows.dtype == DType::float32 && !rows.unit && rows.columns == rows.padded) {
    const auto* x = reinterpret_cast<const float*>(rows.at(row));
    Doubles sums[kParts]{};
    for (int64_t t = 0; t < rows.padded; t += 8)
      for (int64_t part = 0; part < kParts; ++part) {
        const int64_t at = t + part * kDoubles;
        const Doubles away = framed(x, rows.origin, at) - load_doubles(c + at);
        sums[part] += rounded(away * away);
      }
    return tree(sums);
  }
  load(rows, row, y);
  return rows.unit ? 1 - dot(y, c, rows.padded) : squared_distance(y, c, rows.padded);
}

void mean(const int64_t* sums, double scale, double by, double* mean, int64_t padded) {
  const double inverse = 1 / scale;  // exact: a power of two
  for (int64_t t = 0; t < padded; ++t) mean[t] = static_cast<double>(sums[t]) * inverse / by;
}

// sums += sign * rint((y * weight) * scale), ties to even, as the processor's mode is.
void add(const double* y, double weight, double scale, int64_t sign, int64_t* sums, int64_t padded) {
#if ADAPTINF_VECTOR_BYTES == 64
  const __m512d by = _mm512_set1_pd(weight), power = _mm512_set1_pd(scale);
  for (int64_t t = 0; t < padded; t += 8) {
    const __m512i whole = _mm512_cvtpd_epi64(_mm512_mul_pd(_mm512_mul_pd(_mm512_loadu_pd(y + t), by), power));
    const __m512i old = _mm512_loadu_si512(sums + t);
    _mm512_storeu_si512(sums + t, sign > 0 ? _mm512_add_epi64(old, whole) : _mm512_sub_epi64(old, whole));
  }
#else
  for (int64_t t = 0; t < padded; ++t) sums[t] += sign * std::llrint(y[t] * weight * scale);
#endif
}

void move(const Rows& rows, int64_t row, double weight, double scale, int64_t from, int64_t to, int64_t* sums, double* y) {
#if ADAPTINF_VECTOR_BYTES == 64
  if (rows.dtype == DType::float32 && !rows.unit && rows.columns == rows.padded) {
    const auto* x = reinterpret_cast<const float*>(rows.at(row));
    const double* const origin = rows.origin;
    const int64_t padded = rows.padded;
    const __m512d by = _mm512_set1_pd(weight), power = _mm512_set1_pd(scale);
    int64_t* const gains = to < 0 ? nullptr : sums + to * padded;
    int64_t* const loses = from < 0 ? nullptr : sums + from * padded;
    for (int64_t t = 0; t < padded; t += 8) {
      const auto value = reinterpret_cast<__m512d>(framed(x, origin, t));
      const __m512i whole = _mm512_cvtpd_epi64(_mm512_mul_pd(_mm512_mul_pd(value, by), power));
      if (gains != nullptr) _mm512_storeu_si512(gains + t, _mm512_add_epi64(_mm512_loadu_si512(gains + t), whole));
      if (loses != nullptr) _mm512_storeu_si512(loses + t, _mm512_sub_epi64(_mm512_loadu_si512(loses + t), whole));
    }
    return;
  }
#endif
  load(rows, row, y);
  if (to >= 0) add(y, weight, scale, 1, sums + to * rows.padded, rows.padded);
  if (from >= 0) add(y, weight, scale, -1, sums + from * rows.padded, rows.padded);
}

void add_columns(const Rows& rows, int64_t first, int64_t last, double scale, double* y, int64_t* sums) {
  int64_t begin = 0;
#if ADAPTINF_VECTOR_BYTES == 64
  constexpr int64_t kVectors = 8;
  const __m512d power = _mm512_set1_pd(scale);
  if (rows.dtype == DType::float32)
    for (; begin + 8 * kVectors <= rows.columns; begin += 8 * kVectors) {
      __m512i total[kVectors]{};
      for (int64_t row = first; row < last; ++row) {
        const float* x = static_cast<const float*>(rows.data) + row * rows.step + begin;
#pragma GCC unroll 8
        for (int64_t v = 0; v < kVectors; ++v) {
          const __m512d value = _mm512_cvtps_pd(_mm256_loadu_ps(x + 8 * v));
          total[v] = _mm512_add_epi64(total[v], _mm512_cvtpd_epi64(_mm512_mul_pd(value, power)));
        }
      }
      for (int64_t v = 0; v < kVectors; ++v)
        _mm512_storeu_si512(sums + begin + 8 * v, _mm512_add_epi64(_mm512_loadu_si512(sums + begin + 8 * v), total[v]));
    }
#endif
  if (begin == rows.columns) return;
  for (int64_t row = first; row < last; ++row) {
    load(rows, row, y);
    add(y + begin, 1, scale, 1, sums + begin, rows.padded - begin);
  }
}
