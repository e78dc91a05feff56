// What is kept of each row between iterations, rows in the lanes of vectors, for the instruction set for which
// kernels_table.h is included.

constexpr float kNear = 0x1p-20f;  // beyond the roundings to float32 of the few operations below

ADAPTINF_ALWAYS Floats magnitude(Floats value) { return greater(value, -value); }

ADAPTINF_ALWAYS Floats gather(const float* table, Ints places) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_i32gather_ps(reinterpret_cast<__m512i>(places), table, 4);
#elif ADAPTINF_VECTOR_BYTES == 32
  return _mm256_i32gather_ps(table, reinterpret_cast<__m256i>(places), 4);
#else
  Floats found{};
  for (int64_t lane = 0; lane < kLanes; ++lane) found[lane] = table[places[lane]];
  return found;
#endif
}

ADAPTINF_ALWAYS Floats root(Floats value) {
#if ADAPTINF_VECTOR_BYTES == 64
  return _mm512_sqrt_ps(value);
#elif ADAPTINF_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(value);
#else
  for (int64_t lane = 0; lane < kLanes; ++lane) value[lane] = std::sqrt(value[lane]);
  return value;
#endif
}

// The last words of a packed tile, a and b of its rows.
ADAPTINF_ALWAYS void slack_of(const uint32_t* words, int64_t at, Floats& a, Floats& b) {
  const Ints first = load_ints(reinterpret_cast<const int32_t*>(words) + at);
#if ADAPTINF_BRAIN
  a = reinterpret_cast<Floats>(first << 16), b = reinterpret_cast<Floats>(first & static_cast<int32_t>(0xffff0000u));
#else
  a = reinterpret_cast<Floats>(first);
  b = load_floats(reinterpret_cast<const float*>(words) + kTileRows + at);
#endif
}

// The excess is rounded up, by enough for the difference that it is taken from.
uint64_t decide(const Tops& tops, const uint32_t* slack, const Shares& shares, Found& found) {
  uint64_t proven = 0;
  for (int64_t at = 0; at < kTileRows; at += kLanes) {
    const Ints label = load_ints(tops.first_id + at);
    const Floats top = load_floats(tops.first + at), second = load_floats(tops.second + at);
    Floats a, b;
    slack_of(slack, at, a, b);
    const Floats error = a * gather(shares.norm, label) + b * gather(shares.residual, label) + gather(shares.rest, label);
    const Floats excess = error * (2 + 4 * kNear) + magnitude(top) * 0x1p-22f;
    store(found.label + at, label), store(found.top + at, top);
    store(found.excess + at, excess), store(found.others + at, second);
    proven |= mask(second < top - excess) << at;
  }
  return proven;
}

// |y - c|^2 = |y|^2 + 2 score, for unit rows |y|^2 + |c|^2 + 2 score, |c|^2 from `near` to `far`.
void bound(const Found& found, const float* norms, float far, float near, float* upper, float* lower) {
  for (int64_t at = 0; at < kTileRows; at += kLanes) {
    const Floats norm = load_floats(norms + at), top = load_floats(found.top + at);
    const Floats excess = load_floats(found.excess + at), others = load_floats(found.others + at);
    const Floats squared = norm * norm;
    const Floats above = squared + far + 2 * (excess - top) + kNear * (squared + far + magnitude(top) + excess);
    const Floats below = squared + near - 2 * others - kNear * (squared + near + magnitude(others));
    store(upper + at, root(above < 0 ? Floats{} : above) * (1 + kNear));
    store(lower + at, root(below > 0 ? below : Floats{}) * (1 - kNear));
  }
}

// What is not a number proves nothing.
uint64_t loosen(const Drift& drift, const int32_t* labels, float* upper, float* lower) {
  uint64_t kept = 0;
  for (int64_t at = 0; at < kTileRows; at += kLanes) {
    const Ints label = load_ints(labels + at);
    const Floats by = label == drift.farthest ? Floats{} + drift.second : Floats{} + drift.most;
    const Floats above = (load_floats(upper + at) + gather(drift.moved, label)) * (1 + kNear);
    const Floats nearer = (load_floats(lower + at) - by) * (1 - kNear);
    const Floats below = nearer > 0 ? nearer : Floats{};
    store(upper + at, above), store(lower + at, below);
    kept |= mask((below > above) & ((below - above) * (below + above) > drift.margin)) << at;
  }
  return ~kept & (~uint64_t{0} >> (64 - kTileRows));
}

uint64_t differing(const int32_t* a, const int32_t* b) {
  uint64_t bits = 0;
  for (int64_t at = 0; at < kTileRows; at += kLanes) bits |= mask(load_ints(a + at) != load_ints(b + at)) << at;
  return bits;
}
