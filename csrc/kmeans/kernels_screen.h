// Screens: products at low precision, rows in the lanes of vectors, for the instruction set for which kernels_table.h is
// included. ADAPTINF_BRAIN says whether a word is two bfloat16.

constexpr int64_t kLanes = ADAPTINF_VECTOR_BYTES / 4;
constexpr int64_t kSides = 3;  // vectors of rows of a tile
constexpr int64_t kTileRows = kSides * kLanes;
constexpr int64_t kTaken = kLanes == 16 ? 8 : 4;  // centroids that a register tile holds; it divides kPanel

using Floats = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using LooseFloats = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));
using LooseInts = int32_t __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));

ADAPTINF_ALWAYS Floats load_floats(const float* from) { return *reinterpret_cast<const LooseFloats*>(from); }
ADAPTINF_ALWAYS Ints load_ints(const int32_t* from) { return *reinterpret_cast<const LooseInts*>(from); }
ADAPTINF_ALWAYS void store(float* to, Floats value) { *reinterpret_cast<LooseFloats*>(to) = value; }
ADAPTINF_ALWAYS void store(int32_t* to, Ints value) { *reinterpret_cast<LooseInts*>(to) = value; }
ADAPTINF_ALWAYS Floats greater(Floats a, Floats b) { return a > b ? a : b; }
ADAPTINF_ALWAYS Floats lesser(Floats a, Floats b) { return a < b ? a : b; }

// sums + row words . centroid word
ADAPTINF_ALWAYS Floats multiply(Floats sums, Floats rows, uint32_t centroid) {
#if ADAPTINF_BRAIN
  const __m512i pair = _mm512_set1_epi32(static_cast<int32_t>(centroid));
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(rows), reinterpret_cast<__m512bh>(pair));
#else
  float factor;
  __builtin_memcpy(&factor, &centroid, sizeof factor);
  return sums + rows * factor;
#endif
}

// total [side][centroid] = screens of kTaken centroids of a panel
ADAPTINF_ALWAYS void products(const uint32_t* tile, int64_t words, const uint32_t* panel, const float* offsets,
                              Floats (&total)[kSides][kTaken]) {
#pragma GCC unroll 8
  for (int64_t c = 0; c < kTaken; ++c)
#pragma GCC unroll 3
    for (int64_t side = 0; side < kSides; ++side) total[side][c] = Floats{} + offsets[c];
  for (int64_t w = 0; w < words; ++w) {
    Floats rows[kSides];
#pragma GCC unroll 3
    for (int64_t side = 0; side < kSides; ++side)
      rows[side] = load_floats(reinterpret_cast<const float*>(tile + w * kTileRows + side * kLanes));
#pragma GCC unroll 8
    for (int64_t c = 0; c < kTaken; ++c)
#pragma GCC unroll 3
      for (int64_t side = 0; side < kSides; ++side)
        total[side][c] = multiply(total[side][c], rows[side], panel[w * kPanel + c]);
  }
}

void screen(const uint32_t* tile, int64_t words, const uint32_t* panels, const float* offsets, int64_t first, int64_t last,
            Tops& tops) {
  if (first == 0) {
    const Floats none = Floats{} - __builtin_inff();
    for (float* part : {tops.first, tops.second, tops.third})
      for (int64_t at = 0; at < kTileRows; at += kLanes) store(part + at, none);
    for (int32_t* part : {tops.first_id, tops.second_id})
      for (int64_t at = 0; at < kTileRows; at += kLanes) store(part + at, Ints{});
  }
  for (int64_t id = first * kPanel; id < last * kPanel; id += kTaken) {
    Floats total[kSides][kTaken];
    products(tile, words, panels + id / kPanel * words * kPanel + id % kPanel, offsets + id, total);
#pragma GCC unroll 3
    for (int64_t side = 0; side < kSides; ++side) {
      const int64_t at = side * kLanes;
      Floats one = load_floats(tops.first + at), two = load_floats(tops.second + at), three = load_floats(tops.third + at);
      Ints one_id = load_ints(tops.first_id + at), two_id = load_ints(tops.second_id + at);
#pragma GCC unroll 8
      for (int64_t c = 0; c < kTaken; ++c) {
        const Floats found = total[side][c];
        const Ints name = Ints{} + static_cast<int32_t>(id + c);
        const Ints beats_one = found > one, beats_two = found > two;
        three = greater(three, lesser(two, found));
        two = greater(two, lesser(one, found));
        two_id = beats_one ? one_id : (beats_two ? name : two_id);
        one = greater(one, found);
        one_id = beats_one ? name : one_id;
      }
      store(tops.first + at, one), store(tops.second + at, two), store(tops.third + at, three);
      store(tops.first_id + at, one_id), store(tops.second_id + at, two_id);
    }
  }
}

void screen_all(const uint32_t* tile, int64_t words, const uint32_t* panels, const float* offsets, int64_t n_panels,
                float* all) {
  for (int64_t id = 0; id < n_panels * kPanel; id += kTaken) {
    Floats total[kSides][kTaken];
    products(tile, words, panels + id / kPanel * words * kPanel + id % kPanel, offsets + id, total);
    for (int64_t c = 0; c < kTaken; ++c)
      for (int64_t side = 0; side < kSides; ++side)
        store(all + (id + c) * kTileRows + side * kLanes, total[side][c]);
  }
}

// Bit per lane of a comparison.
ADAPTINF_ALWAYS uint64_t mask(Ints truth) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(truth));
#elif ADAPTINF_VECTOR_BYTES == 32
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(truth)));
#else
  uint64_t bits = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) bits |= static_cast<uint64_t>(truth[lane] != 0) << lane;
  return bits;
#endif
}

// What is not a number reaches everything.
uint64_t reaching(const float* values, const float* least) {
  uint64_t bits = 0;
  for (int64_t at = 0; at < kTileRows; at += kLanes)
    bits |= mask(~(load_floats(values + at) < load_floats(least + at))) << at;
  return bits;
}

#if ADAPTINF_VECTOR_BYTES == 64
// out [16][kTileRows apart] = columns of 16 rows of 16 words
ADAPTINF_ALWAYS void transpose16(const uint32_t* const* rows, int64_t word, uint32_t* out) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i] + word);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    _mm512_storeu_si512(out + i * kTileRows, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    _mm512_storeu_si512(out + (i + 8) * kTileRows, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
  }
}
#endif

void transpose(const uint32_t* const* rows, int64_t words, uint32_t* tile) {
  for (int64_t first = 0; first < kTileRows; first += kLanes) {
    int64_t word = 0;
#if ADAPTINF_VECTOR_BYTES == 64
    for (; word + 16 <= words; word += 16) transpose16(rows + first, word, tile + word * kTileRows + first);
#endif
    for (int64_t r = 0; r < kLanes; ++r)
      for (int64_t w = word; w < words; ++w) tile[w * kTileRows + first + r] = rows[first + r][w];
  }
}

#if ADAPTINF_BRAIN
// Eight values of a row in float64; those that are not `present` are zero. Masked loads are slow where memory is awaited.
ADAPTINF_ALWAYS __m512d eight(const double* y, const double*, int64_t t, __mmask8 present) {
  return _mm512_maskz_loadu_pd(present, y + t);
}
ADAPTINF_ALWAYS __m512d eight(const float* x, const double* origin, int64_t t, __mmask8 present) {
  if (present == 0xff) return _mm512_sub_pd(_mm512_cvtps_pd(_mm256_loadu_ps(x + t)), _mm512_loadu_pd(origin + t));
  const __m512d value = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(present, x + t));
  return _mm512_maskz_sub_pd(present, value, _mm512_maskz_loadu_pd(present, origin + t));
}
#endif

// Numbers below the normal ones of bfloat16 become zero, as its dot products take them.
template <class Element>
ADAPTINF_ALWAYS Norms pack_from(const Element* from, const double* origin, double scale, int64_t columns, uint32_t* words) {
  double whole = 0, packed = 0, residual = 0;
#if ADAPTINF_BRAIN
  auto* out = reinterpret_cast<uint16_t*>(words);
  const __m512d power = _mm512_set1_pd(scale);
  __m512d squares = _mm512_setzero_pd(), near_squares = squares, away_squares = squares;
  const auto count = [&](__m512d value, __m256 near) {
    const __m512d kept = _mm512_cvtps_pd(near), away = _mm512_sub_pd(value, kept);
    squares = _mm512_fmadd_pd(value, value, squares);
    near_squares = _mm512_fmadd_pd(kept, kept, near_squares);
    away_squares = _mm512_fmadd_pd(away, away, away_squares);
  };
  for (int64_t t = 0; t < columns; t += 16) {
    const auto present = static_cast<__mmask16>(columns - t >= 16 ? 0xffff : (1 << (columns - t)) - 1);
    const __m512d low = _mm512_mul_pd(eight(from, origin, t, static_cast<__mmask8>(present)), power);
    const __m512d high = _mm512_mul_pd(eight(from, origin, t + 8, static_cast<__mmask8>(present >> 8)), power);
    const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
    const auto halves = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(both));
    if (present == 0xffff) _mm256_storeu_si256(reinterpret_cast<__m256i_u*>(out + t), halves);
    else _mm256_mask_storeu_epi16(out + t, present, halves);
    const __m512 near = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
    count(low, _mm512_castps512_ps256(near));
    count(high, _mm512_extractf32x8_ps(near, 1));
  }
  const Doubles sums[3] = {squares, near_squares, away_squares};
  whole = tree(&sums[0]), packed = tree(&sums[1]), residual = tree(&sums[2]);
  if (columns % 2 == 1) out[columns] = 0;
#else
  for (int64_t t = 0; t < columns; ++t) {
    const double value = (origin == nullptr ? from[t] : from[t] - origin[t]) * scale;
    float near = static_cast<float>(value);
    near = std::fabs(near) < 0x1p-126f ? 0.0f : near;
    __builtin_memcpy(words + t, &near, sizeof near);
    const double back = near, away = value - back;
    whole += value * value, packed += back * back, residual += away * away;
  }
#endif
  return {std::sqrt(whole), std::sqrt(packed), std::sqrt(residual)};
}

Norms pack(const double* y, double scale, int64_t columns, uint32_t* words) {
  return pack_from(y, nullptr, scale, columns, words);
}

Norms pack_row(const Rows& rows, int64_t row, double scale, double* y, uint32_t* words) {
  if (rows.dtype == DType::float32 && !rows.unit)
    return pack_from(static_cast<const float*>(rows.data) + row * rows.step, rows.origin, scale, rows.columns, words);
  load(rows, row, y);
  return pack(y, scale, rows.columns, words);
}
