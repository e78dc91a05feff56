// Vectors of the instruction set for which kernels_table.h is included.
// Vectors are the compiler's own; a product and a sum are fused where the set can, and then in every element alike.

constexpr int64_t kLanes = ADAPTINF_VECTOR_BYTES / 4;
constexpr int64_t kMaxRows = kLanes == 16 ? 14 : 6;
constexpr int64_t kTile = 2 * kLanes;
constexpr uint32_t kSignBit = 0x80000000u;

using Vector = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using Loose = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));
using Words = uint32_t __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using LooseWords = uint32_t __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));

ADAPTINF_ALWAYS Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
ADAPTINF_ALWAYS void store(float* to, Vector value) { *reinterpret_cast<Loose*>(to) = value; }
ADAPTINF_ALWAYS Vector splat(float value) { return value - Vector{}; }

ADAPTINF_ALWAYS Vector load_some(const float* from, int64_t count) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
  Vector value{};
  __builtin_memcpy(&value, from, static_cast<size_t>(count) * 4);
  return value;
#endif
}

ADAPTINF_ALWAYS void store_some(float* to, Vector value, int64_t count) {
#if ADAPTINF_VECTOR_BYTES == 64
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), value);
#else
  __builtin_memcpy(to, &value, static_cast<size_t>(count) * 4);
#endif
}

ADAPTINF_ALWAYS Vector fused(Vector a, Vector b, Vector c) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_fmadd_ps(a, b, c);
#elif ADAPTINF_VECTOR_BYTES == 32
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

ADAPTINF_ALWAYS Vector square_root(Vector value) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_sqrt_ps(value);
#elif ADAPTINF_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(value);
#else
  for (int64_t lane = 0; lane < kLanes; ++lane) value[lane] = __builtin_sqrtf(value[lane]);
  return value;
#endif
}

// The value negated in lane l where bit l of the word is set.
ADAPTINF_ALWAYS Vector flip(Vector value, uint32_t word) {
#if ADAPTINF_VECTOR_BYTES == 64
  const __m512i bits = _mm512_castps_si512(value);
  return _mm512_castsi512_ps(_mm512_mask_xor_epi32(bits, static_cast<__mmask16>(word), bits, _mm512_set1_epi32(INT32_MIN)));
#else
  Words bit;
  for (int64_t lane = 0; lane < kLanes; ++lane) bit[lane] = 1u << lane;
  const Words set = reinterpret_cast<Words>((bit & word) == bit);
  return reinterpret_cast<Vector>(reinterpret_cast<Words>(value) ^ (set & kSignBit));
#endif
}
