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

ADAPTINF_ALWAYS double tree(const Doubles* sums) {
  double a[8];
  __builtin_memcpy(a, sums, sizeof a);
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
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

// Ties to even, as the processor's mode is.
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

// Whether all are finite; where they are, low and high take the columns in.
bool extend(const double* y, double* low, double* high, int64_t padded) {
  double finite = 0;  // becomes NaN where a value is not
  for (int64_t t = 0; t < padded; ++t) finite += y[t] - y[t];
  if (finite != 0) return false;
  for (int64_t t = 0; t < padded; ++t) {
    low[t] = y[t] < low[t] ? y[t] : low[t];
    high[t] = y[t] > high[t] ? y[t] : high[t];
  }
  return true;
}
