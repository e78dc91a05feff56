// Extremes of columns, and what is kept of each row between iterations, for the instruction set for which
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

// Tables of up to kShortTable numbers stay in registers.
template <bool kShort>
class Table {
 public:
  explicit ADAPTINF_ALWAYS Table(const float* table) : table_(table) {}
  ADAPTINF_ALWAYS Floats operator()(Ints places) const { return gather(table_, places); }

 private:
  const float* table_;
};

#if ADAPTINF_VECTOR_BYTES == 64
template <>
class Table<true> {
 public:
  explicit ADAPTINF_ALWAYS Table(const float* table) : low_(load_floats(table)), high_(load_floats(table + kLanes)) {}
  ADAPTINF_ALWAYS Floats operator()(Ints places) const {
    return _mm512_permutex2var_ps(low_, reinterpret_cast<__m512i>(places), high_);
  }

 private:
  Floats low_, high_;
};
#endif

// The excess is rounded up, by enough for the difference that it is taken from.
template <bool kShort>
ADAPTINF_ALWAYS uint64_t decide_with(const Tops& tops, const uint32_t* slack, const Shares& shares, Found& found) {
  const Table<kShort> norm(shares.norm), residual(shares.residual), rest(shares.rest);
  uint64_t proven = 0;
  for (int64_t at = 0; at < kTileRows; at += kLanes) {
    const Ints label = load_ints(tops.first_id + at);
    const Floats top = load_floats(tops.first + at), second = load_floats(tops.second + at);
    Floats a, b;
    slack_of(slack, at, a, b);
    const Floats error = a * norm(label) + b * residual(label) + rest(label);
    const Floats excess = error * (2 + 4 * kNear) + magnitude(top) * 0x1p-22f;
    store(found.label + at, label), store(found.top + at, top);
    store(found.excess + at, excess), store(found.others + at, second);
    proven |= mask(second < top - excess) << at;
  }
  return proven;
}

uint64_t decide(const Tops& tops, const uint32_t* slack, const Shares& shares, Found& found) {
  return shares.count <= kShortTable ? decide_with<true>(tops, slack, shares, found)
                                     : decide_with<false>(tops, slack, shares, found);
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
    const Floats old = load_floats(lower + at);
    // those few are as far as the triangle says
    const Floats apart = lesser(old - drift.others, gather(drift.gaps, label) - above);
    const Floats nearer = greater(old - by, apart) * (1 - kNear);
    const Floats below = nearer > 0 ? nearer : Floats{};
    store(upper + at, above), store(lower + at, below);
    kept |= mask((below > above) & ((below - above) * (below + above) > drift.margin)) << at;
  }
  return ~kept & (~uint64_t{0} >> (64 - kTileRows));
}

ADAPTINF_ALWAYS uint64_t rotated(uint64_t word, int by) { return word << by | word >> (64 - by); }

// Eight words at a time, each to a state of its own; the last ones are filled up with zeros.
uint64_t hash(const void* bytes, int64_t count) {
  constexpr uint64_t kTurn = 0x9e3779b97f4a7c15, kSpread = 0xd1b54a32d192ed03;  // odd
  constexpr int64_t kWords = 8, kLine = 64;
  uint64_t states[kWords];
  for (int64_t w = 0; w < kWords; ++w) states[w] = static_cast<uint64_t>(w + 1) * kSpread;
  const auto take = [&](const void* line) {
    uint64_t words[kWords];
    __builtin_memcpy(words, line, kLine);
    for (int64_t w = 0; w < kWords; ++w) states[w] = rotated(states[w] + words[w] * kSpread, 31) * kTurn;
  };
  const char* from = static_cast<const char*>(bytes);
  for (; count >= kLine; count -= kLine, from += kLine) take(from);
  if (count > 0) {
    char last[kLine]{};
    __builtin_memcpy(last, from, static_cast<size_t>(count));
    take(last);
  }
  uint64_t hash = 0;
  for (const uint64_t state : states) hash = (rotated(hash, 27) ^ (state ^ state >> 32)) * kTurn;
  return hash ^ hash >> 32;
}

uint64_t differing(const int32_t* a, const int32_t* b) {
  uint64_t bits = 0;
  for (int64_t at = 0; at < kTileRows; at += kLanes) bits |= mask(load_ints(a + at) != load_ints(b + at)) << at;
  return bits;
}

// Columns of float32, kVectors vectors of them.
template <int64_t kVectors>
ADAPTINF_ALWAYS bool extend_strip(const float* x, int64_t step, int64_t count, double* low, double* high) {
  Floats least[kVectors], most[kVectors], finite{};  // the last becomes NaN where a value is not finite
#pragma GCC unroll 8
  for (int64_t v = 0; v < kVectors; ++v) least[v] = most[v] = load_floats(x + v * kLanes);
  for (int64_t row = 0; row < count; ++row)
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVectors; ++v) {
      const Floats value = load_floats(x + row * step + v * kLanes);
      least[v] = lesser(value, least[v]), most[v] = greater(value, most[v]), finite += value - value;
    }
  for (int64_t t = 0; t < kVectors * kLanes; ++t) {
    low[t] = std::min<double>(low[t], least[t / kLanes][t % kLanes]);
    high[t] = std::max<double>(high[t], most[t / kLanes][t % kLanes]);
  }
  return mask(finite == 0) == ~uint64_t{0} >> (64 - kLanes);
}

bool extend(const Rows& rows, int64_t first, int64_t last, double* y, double* low, double* high) {
  int64_t begin = 0;
  bool finite = true;
  if (rows.dtype == DType::float32) {
    const float* x = static_cast<const float*>(rows.data) + first * rows.step;
    for (; begin + 4 * kLanes <= rows.columns; begin += 4 * kLanes)
      finite &= extend_strip<4>(x + begin, rows.step, last - first, low + begin, high + begin);
    for (; begin + kLanes <= rows.columns; begin += kLanes)
      finite &= extend_strip<1>(x + begin, rows.step, last - first, low + begin, high + begin);
  }
  if (begin == rows.columns) return finite;
  double rest = 0;  // becomes NaN where a value is not finite
  for (int64_t row = first; row < last; ++row) {
    load(rows, row, y);
    for (int64_t t = begin; t < rows.padded; ++t) {
      rest += y[t] - y[t];
      low[t] = y[t] < low[t] ? y[t] : low[t];
      high[t] = y[t] > high[t] ? y[t] : high[t];
    }
  }
  return finite && rest == 0;
}
