// Included by kernels_cpu.cpp once per instruction set, in a namespace of that set, with ADAPTINF_VECTOR_BYTES set. Eight
// accumulators, entry t to number t mod 8: products of two float32 are exact in float64, so that it does not matter whether
// a set fuses them with the addition.

constexpr int64_t kLanes = ADAPTINF_VECTOR_BYTES / 4;
constexpr int64_t kTileRows = kLanes == 16 ? 12 : 6;
constexpr int64_t kTileColumns = 2 * kLanes;

using Eight = double __attribute__((vector_size(64)));
using LooseDoubles = double __attribute__((vector_size(64), aligned(8), may_alias));
using LooseFloats = float __attribute__((vector_size(32), aligned(4), may_alias));
using Floats = float __attribute__((vector_size(32)));
using Vector = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using LooseVector = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));
using Words = uint32_t __attribute__((vector_size(64)));
using LooseWords = uint32_t __attribute__((vector_size(64), aligned(4), may_alias));

#if ADAPTINF_VECTOR_BYTES == 64  // GCC makes halves of __builtin_convertvector, and warns without a mask
#define ADAPTINF_WIDEN(floats) _mm512_maskz_cvtps_pd(0xff, floats)
#define ADAPTINF_NARROW(doubles) _mm512_maskz_cvtpd_ps(0xff, doubles)
#else
#define ADAPTINF_WIDEN(floats) __builtin_convertvector(floats, Eight)
#define ADAPTINF_NARROW(doubles) __builtin_convertvector(doubles, Floats)
#endif
#define ADAPTINF_DOUBLES(pointer) ADAPTINF_WIDEN(*reinterpret_cast<const LooseFloats*>(pointer))

ADAPTINF_ALWAYS double total(const Eight& a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }

// Entries `first` on of x, eight of them or those that are left, as r in float32.
template <typename Source>
ADAPTINF_ALWAYS void scaled(const Source* x, int64_t first, int64_t count, double scale, Floats& r) {
  if (first + 8 <= count) {
    if constexpr (sizeof(Source) == 4) {
      r = ADAPTINF_NARROW(ADAPTINF_DOUBLES(x + first) * scale);
    } else {
      r = ADAPTINF_NARROW(*reinterpret_cast<const LooseDoubles*>(x + first) * scale);
    }
  } else {
    r = Floats{};
    for (int64_t t = first; t < count; ++t) r[t - first] = static_cast<float>(static_cast<double>(x[t]) * scale);
  }
}

template <typename Source>
ADAPTINF_ALWAYS Scaling measure_as(const Source* x, int64_t count) {
  constexpr int64_t kSide = 32;  // maxima side by side
  Source largest[kSide]{};
  int64_t t = 0;
  for (; t + kSide <= count; t += kSide)
    for (int64_t lane = 0; lane < kSide; ++lane) {
      const Source size = __builtin_fabs(x[t + lane]);
      largest[lane] = size > largest[lane] ? size : largest[lane];
    }
  for (; t < count; ++t) largest[0] = std::max<Source>(largest[0], __builtin_fabs(x[t]));
  const double most = static_cast<double>(*std::max_element(largest, largest + kSide));
  if (most == 0) return {1, 0};
  int exponent = 0;
  std::frexp(most, &exponent);
  const double scale = std::ldexp(1.0, -std::min(std::max(exponent, -1000), 1022));
  Eight sum{};
  for (t = 0; t < count; t += 8) {
    Floats r;
    scaled(x, t, count, scale, r);
    const Eight wide = ADAPTINF_WIDEN(r);
    sum += wide * wide;
  }
  return {scale, 1 / std::sqrt(total(sum))};
}

template <typename Source>
ADAPTINF_ALWAYS void unit_as(const Source* x, int64_t count, Scaling by, float* out, int64_t width) {
  int64_t t = 0;
  for (; t < count; t += 8) {
    Floats r;
    scaled(x, t, count, by.scale, r);
    const Floats u = ADAPTINF_NARROW(ADAPTINF_WIDEN(r) * by.inverse) + 0.0f;  // no -0
    *reinterpret_cast<LooseFloats*>(out + t) = u;
  }
  for (; t < width; ++t) out[t] = 0;
}

Scaling measure(const float* x, int64_t count) { return measure_as(x, count); }
Scaling measure_double(const double* x, int64_t count) { return measure_as(x, count); }
void unit(const float* x, int64_t count, Scaling by, float* out, int64_t width) { unit_as(x, count, by, out, width); }
void unit_double(const double* x, int64_t count, Scaling by, float* out, int64_t width) {
  unit_as(x, count, by, out, width);
}

uint32_t hash(const float* unit, int64_t width) {
  Words state{};
  for (int64_t t = 0; t < width; t += 16) {
    state = (state ^ *reinterpret_cast<const LooseWords*>(unit + t)) * 0x9e3779b1u;
    state ^= state >> 15;
  }
  uint64_t mixed = 0;
  for (int lane = 0; lane < 16; ++lane) {
    mixed = (mixed ^ state[lane]) * 0x9e3779b97f4a7c15u;
    mixed ^= mixed >> 29;
  }
  return static_cast<uint32_t>(mixed >> 32);
}

double dot(const float* a, const float* b, int64_t width) {
  Eight sum{};
  for (int64_t t = 0; t < width; t += 8) sum += ADAPTINF_DOUBLES(a + t) * ADAPTINF_DOUBLES(b + t);
  return total(sum);
}

// Rounds to nearest, ties to even.
ADAPTINF_ALWAYS uint32_t brain_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

template <bool Brain>
ADAPTINF_ALWAYS Residual center_as(const float* unit, const float* center, int64_t width, uint32_t* out) {
  Eight squares{}, lost{}, along{};
  for (int64_t t = 0; t < width; t += 8) {
    const Eight middle = ADAPTINF_DOUBLES(center + t), y = ADAPTINF_DOUBLES(unit + t) - middle;
    const Floats narrow = ADAPTINF_NARROW(y);
    float entries[8], kept[8];
    __builtin_memcpy(entries, &narrow, sizeof entries);
    if constexpr (Brain) {
      uint16_t halves[8];
      for (int lane = 0; lane < 8; ++lane) {
        const uint32_t bits = brain_bits(entries[lane]);
        halves[lane] = static_cast<uint16_t>(bits);
        const uint32_t high = bits << 16;
        __builtin_memcpy(kept + lane, &high, 4);
      }
      __builtin_memcpy(out + t / 2, halves, sizeof halves);
    } else {
      __builtin_memcpy(kept, entries, sizeof kept);
      __builtin_memcpy(out + t, entries, sizeof entries);
    }
    const Eight rest = y - ADAPTINF_DOUBLES(kept);
    squares += y * y;
    lost += rest * rest;
    along += middle * y;
  }
  return {std::sqrt(total(squares)), std::sqrt(total(lost)), total(along)};
}

Residual center(const float* unit, const float* center, int64_t width, uint32_t* out) {
  return center_as<false>(unit, center, width, out);
}

ADAPTINF_ALWAYS uint32_t reached(const Vector& value, const Vector& threshold) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_cmp_ps_mask(value, threshold, _CMP_GE_OQ);
#elif ADAPTINF_VECTOR_BYTES == 32
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(value, threshold, _CMP_GE_OQ)));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= static_cast<uint32_t>(value[lane] >= threshold[lane]) << lane;
  return bits;
#endif
}

ADAPTINF_ALWAYS void report(Vector (&sums)[2 * kTileRows], const float* bias, const float* thresholds, float* out,
                            uint32_t* hits) {
  const Vector left = *reinterpret_cast<const LooseVector*>(thresholds),
               right = *reinterpret_cast<const LooseVector*>(thresholds + kLanes);
#pragma GCC unroll 16
  for (int64_t row = 0; row < kTileRows; ++row) {
    sums[2 * row] += bias[row];
    sums[2 * row + 1] += bias[row];
    *reinterpret_cast<LooseVector*>(out + row * kTileColumns) = sums[2 * row];
    *reinterpret_cast<LooseVector*>(out + row * kTileColumns + kLanes) = sums[2 * row + 1];
    hits[row] = reached(sums[2 * row], left) | reached(sums[2 * row + 1], right) << kLanes;
  }
}

void screen(const uint32_t* rows, const uint32_t* columns, int64_t words, const float* bias, const float* thresholds,
            float* out, uint32_t* hits) {
  const float *one = reinterpret_cast<const float*>(rows), *other = reinterpret_cast<const float*>(columns);
  Vector sums[2 * kTileRows]{};
  for (int64_t word = 0; word < words; word += kQuad, one += kQuad * kTileRows) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kQuad; ++k, other += kTileColumns) {
      const Vector left = *reinterpret_cast<const LooseVector*>(other),
                   right = *reinterpret_cast<const LooseVector*>(other + kLanes);
#pragma GCC unroll 16
      for (int64_t row = 0; row < kTileRows; ++row) {
        const Vector factor = one[row * kQuad + k] - Vector{};
        sums[2 * row] += left * factor;
        sums[2 * row + 1] += right * factor;
      }
    }
  }
  report(sums, bias, thresholds, out, hits);
}

const Kernels& table() {
  static const Kernels kernels{kTileRows, kTileColumns, kPad, measure, measure_double, unit,
                               unit_double, hash, dot, center, screen};
  return kernels;
}

#if defined(ADAPTINF_BRAIN)
Residual center_brain(const float* unit, const float* center, int64_t width, uint32_t* out) {
  return center_as<true>(unit, center, width, out);
}

void screen_brain(const uint32_t* rows, const uint32_t* columns, int64_t words, const float* bias, const float* thresholds,
                  float* out, uint32_t* hits) {
  const float *one = reinterpret_cast<const float*>(rows), *other = reinterpret_cast<const float*>(columns);
  Vector sums[2 * kTileRows]{};
  for (int64_t word = 0; word < words; word += kQuad, one += kQuad * kTileRows) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < kQuad; ++k, other += kTileColumns) {
      const auto left = reinterpret_cast<__m512bh>(_mm512_loadu_ps(other)),
                 right = reinterpret_cast<__m512bh>(_mm512_loadu_ps(other + kLanes));
#pragma GCC unroll 16
      for (int64_t row = 0; row < kTileRows; ++row) {
        const auto factor = reinterpret_cast<__m512bh>(_mm512_set1_ps(one[row * kQuad + k]));
        sums[2 * row] = _mm512_dpbf16_ps(sums[2 * row], left, factor);
        sums[2 * row + 1] = _mm512_dpbf16_ps(sums[2 * row + 1], right, factor);
      }
    }
  }
  report(sums, bias, thresholds, out, hits);
}

const Kernels& brain_table() {
  static const Kernels kernels{kTileRows, kTileColumns, kPad / 2, measure, measure_double, unit,
                               unit_double, hash, dot, center_brain, screen_brain};
  return kernels;
}
#endif

#undef ADAPTINF_DOUBLES
#undef ADAPTINF_NARROW
#undef ADAPTINF_WIDEN
#undef ADAPTINF_VECTOR_BYTES
