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

// Eight values of a row in float64; those that are not `present` are zero.
#if ADAPTINF_BRAIN
ADAPTINF_ALWAYS __m512d eight(const double* y, const double*, int64_t t, __mmask8 present) {
  return _mm512_maskz_loadu_pd(present, y + t);
}
ADAPTINF_ALWAYS __m512d eight(const float* x, const double* origin, int64_t t, __mmask8 present) {
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
  __m512d sums[3]{};
  for (int64_t t = 0; t < columns; t += 8) {
    const bool full = columns - t >= 8;
    const __mmask8 present = static_cast<__mmask8>(full ? 0xff : (1 << (columns - t)) - 1);
    const __m512d value = _mm512_mul_pd(eight(from, origin, t, present), _mm512_set1_pd(scale));
    const __m256i bits = _mm256_castps_si256(_mm512_cvtpd_ps(value));
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __mmask8 normal = _mm256_test_epi32_mask(nearest, _mm256_set1_epi32(0x7f80));
    const __m256i kept = _mm256_maskz_mov_epi32(normal, nearest);
    const __m512d back = _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(kept, 16)));
    const __m512d away = _mm512_sub_pd(value, back);
    sums[0] = _mm512_fmadd_pd(value, value, sums[0]);
    sums[1] = _mm512_fmadd_pd(back, back, sums[1]);
    sums[2] = _mm512_fmadd_pd(away, away, sums[2]);
    const __m128i halves = _mm256_cvtepi32_epi16(kept);
    if (full) _mm_storeu_si128(reinterpret_cast<__m128i_u*>(out + t), halves);
    else _mm_mask_storeu_epi16(out + t, present, halves);  // slow on some processors
  }
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
