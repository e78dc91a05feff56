// Included by transform_cpu.cpp once per instruction set, with ADAPTINF_VECTOR_BYTES set, in a namespace of that set.
// H_k = H_(k / kLanes) (x) H_kLanes: the lowest levels of a transform act inside vectors, the others on whole vectors.

constexpr int kLanes = ADAPTINF_VECTOR_BYTES / 4;
// vectors that fit the registers: at a transform's first step per token, in between, and at its last for both sides
constexpr int kMostTop = kLanes == 16 ? 4 : 2, kMostRadix = kLanes == 16 ? 16 : 8, kMostRun = kLanes == 16 ? 8 : 4;

using Vector = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), may_alias));

#define ADAPTINF_APART __attribute__((noinline))  // with all the registers for itself

// Row p is column p of H_kLanes, row kLanes + p its negative.
struct SignPatterns {
  alignas(64) float rows[2 * kLanes][kLanes];

  constexpr SignPatterns() : rows() {
    for (int row = 0; row < 2 * kLanes; ++row)
      for (int lane = 0; lane < kLanes; ++lane) {
        bool odd = row >= kLanes;
        for (int bits = row & lane & (kLanes - 1); bits != 0; bits &= bits - 1) odd = !odd;
        rows[row][lane] = odd ? -1.0f : 1.0f;
      }
  }
  const Vector& operator[](uint32_t row) const { return *reinterpret_cast<const Vector*>(rows[row]); }
};
constexpr SignPatterns kSignPatterns{};

// H_R across R vectors.
template <int R>
ADAPTINF_ALWAYS void butterflies(Vector (&v)[R]) {
#pragma GCC unroll 4
  for (int half = 1; half < R; half *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
      if ((i & half) == 0) {
        const Vector a = v[i], b = v[i + half];
        v[i] = a + b;
        v[i + half] = a - b;
      }
}

// sums[i] += the patterns of the entries times their values in row i.
ADAPTINF_ALWAYS void add_entries(const BucketTable::Entry* entry, const BucketTable::Entry* last,
                                 const float* const (&rows)[kAbreast], Vector (&sums)[kAbreast]) {
  for (; entry < last; ++entry) {
    const Vector& pattern = kSignPatterns[entry->pattern];
    const uint32_t id = entry->id;
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) sums[i] += pattern * rows[i][id];
  }
}

// CountSketch of kAbreast rows, the levels inside vectors, and the topmost log2(Top) levels: out[i][b] for the n vectors b.
// Where there are many more ids than buckets, sums of few terms keep the rounding small.
template <int Top, bool Many>
ADAPTINF_APART void spread(const BucketTable& table, int64_t n, const float* const* values, Vector* const* out) {
  const int64_t part = n / Top;
  const uint32_t* const start = table.start.data();
  const BucketTable::Entry* const entries = table.entries.data();
  const float* rows[kAbreast];
  Vector* to[kAbreast];
  std::copy_n(values, kAbreast, rows);
  std::copy_n(out, kAbreast, to);
  for (int64_t b = 0; b < part; ++b) {
    Vector sums[Top][kAbreast] = {};
#pragma GCC unroll 4
    for (int j = 0; j < Top; ++j) {
      const BucketTable::Entry *entry = entries + start[b + j * part], *const last = entries + start[b + j * part + 1];
      for (; Many && last - entry > kTerms; entry += kTerms) {
        Vector some[kAbreast] = {};
        add_entries(entry, entry + kTerms, rows, some);
        for (int i = 0; i < kAbreast; ++i) sums[j][i] += some[i];
      }
      add_entries(entry, last, rows, sums[j]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) {
      Vector column[Top];
#pragma GCC unroll 4
      for (int j = 0; j < Top; ++j) column[j] = sums[j][i];
      butterflies<Top>(column);
#pragma GCC unroll 4
      for (int j = 0; j < Top; ++j) to[i][b + j * part] = column[j];
    }
  }
}

template <int Top>
void spread_any(const BucketTable& table, int64_t n, const float* const* values, Vector* const* out) {
  if (table.most > kTerms)
    spread<Top, true>(table, n, values, out);
  else
    spread<Top, false>(table, n, values, out);
}

void spread_any(const BucketTable& table, int64_t n, int64_t top, const float* const* values, Vector* const* out) {
  if (top == 1)
    spread_any<1>(table, n, values, out);
  else if (top == 2)
    spread_any<2>(table, n, values, out);
  else
    spread_any<kMostTop>(table, n, values, out);
}

// The topmost log2(R) levels of n vectors, in place.
template <int R>
ADAPTINF_APART void top_levels(Vector* p, int64_t n) {
  const int64_t stride = n / R;
  for (int64_t b = 0; b < stride; ++b) {
    Vector v[R];
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) v[j] = p[b + j * stride];
    butterflies<R>(v);
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) p[b + j * stride] = v[j];
  }
}

// The levels of n vectors down to runs of `run` vectors, n / run a power of two, at most log2(kMostRadix) at a time; in place.
void levels_above(Vector* p, int64_t n, int64_t run) {
  for (int64_t width = n; width > run;) {
    const int levels = log2_of(width / run), passes = (levels + log2_of(kMostRadix) - 1) / log2_of(kMostRadix);
    const int64_t radix = int64_t{1} << (levels + passes - 1) / passes;
    for (int64_t first = 0; first < n; first += width) {
      if (radix == 2)
        top_levels<2>(p + first, width);
      else if (radix == 4)
        top_levels<4>(p + first, width);
      else if (radix == 8)
        top_levels<8>(p + first, width);
      else
        top_levels<kMostRadix>(p + first, width);
    }
    width /= radix;
  }
}

// sum[b] += sum_i (the lowest log2(R) levels of g[i])[b] * (those of x[i])[b], for the n vectors b.
template <int R>
ADAPTINF_APART void multiply_add(const Vector* const* g, const Vector* const* x, int64_t n, Vector* sum) {
  for (int64_t b = 0; b < n; b += R) {
    Vector total[R];
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) total[j] = Vector{};
#pragma GCC unroll 4
    for (int i = 0; i < kAbreast; ++i) {
      Vector left[R], right[R];
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

void multiply_add_any(Vector* const* g, Vector* const* x, int64_t n, int64_t run, Vector* sum) {
  if (run == 1)
    multiply_add<1>(g, x, n, sum);
  else if (run == 2)
    multiply_add<2>(g, x, n, sum);
  else if (run == 4)
    multiply_add<4>(g, x, n, sum);
  else
    multiply_add<kMostRun>(g, x, n, sum);
}

// H_k of n vectors, in place.
ADAPTINF_ALWAYS void walsh_hadamard(Vector* p, int64_t n) {
  levels_above(p, n, 1);
  for (int64_t b = 0; b < n; ++b) {
    const auto* values = reinterpret_cast<const float*>(p + b);
    Vector sum{};
    for (uint32_t lane = 0; lane < kLanes; ++lane) sum += kSignPatterns[lane] * values[lane];
    p[b] = sum;
  }
}

// The chunk's sum in the Walsh domain. Of the levels that act on whole vectors, the first step of a transform does
// log2(top) and the last log2(run) in registers; what is left between is done in place, segment by segment.
void sum_chunk(const Work& work, const Chunk& chunk, float* scratch, float* result) {
  const int64_t n = work.buckets / kLanes, run = std::min<int64_t>(n, kMostRun);
  const int64_t top = std::clamp<int64_t>(n / (8 * run), 1, kMostTop), segment = n / top;
  const int64_t widest = std::max(work.g.values.columns, work.x.values.columns);
  Vector* g[kAbreast];
  Vector* x[kAbreast];
  for (int i = 0; i < kAbreast; ++i) {
    g[i] = reinterpret_cast<Vector*>(scratch + 2 * i * (work.buckets + kRowPad));
    x[i] = reinterpret_cast<Vector*>(scratch + (2 * i + 1) * (work.buckets + kRowPad));
  }
  auto* const block_sum = reinterpret_cast<Vector*>(scratch + 2 * kAbreast * (work.buckets + kRowPad));
  float* const zeros = scratch + (2 * kAbreast + 1) * (work.buckets + kRowPad);
  auto* const total = reinterpret_cast<Vector*>(result);
  std::fill_n(zeros, widest, 0.0f);
  std::fill_n(result, work.buckets, 0.0f);

  for (int64_t block = chunk.first; block < chunk.last; block += kBlock) {
    const int64_t last = std::min(chunk.last, block + kBlock);
    for (int64_t b = 0; b < n; ++b) block_sum[b] = Vector{};
    for (int64_t token = block; token < last; token += kAbreast) {
      const float* g_rows[kAbreast];
      const float* x_rows[kAbreast];
      fetch(work.g.values, token, last, work.kernels, zeros + widest, zeros, g_rows);
      fetch(work.x.values, token, last, work.kernels, zeros + (1 + kAbreast) * widest, zeros, x_rows);
      for (size_t repetition = 0; repetition < work.g.tables.size(); ++repetition) {
        spread_any(work.g.tables[repetition], n, top, g_rows, g);
        spread_any(work.x.tables[repetition], n, top, x_rows, x);
        for (int64_t at = 0; at < n; at += segment) {
          Vector*g_at[kAbreast], *x_at[kAbreast];
          for (int i = 0; i < kAbreast; ++i) {
            g_at[i] = g[i] + at;
            x_at[i] = x[i] + at;
            levels_above(g_at[i], segment, run);
            levels_above(x_at[i], segment, run);
          }
          multiply_add_any(g_at, x_at, segment, run, block_sum + at);
        }
      }
    }
    for (int64_t b = 0; b < n; ++b) total[b] += block_sum[b];
  }
}

// A sample's sums, [count][buckets], added up in their order and transformed back.
void finish(const Work& work, int64_t count, float* sums, float* z) {
  if (count == 0) {
    std::fill_n(z, work.k, 0.0f);
    return;
  }
  const int64_t n = work.buckets / kLanes;
  auto* const total = reinterpret_cast<Vector*>(sums);
  for (int64_t chunk = 1; chunk < count; ++chunk)
    for (int64_t b = 0; b < n; ++b) total[b] += total[chunk * n + b];
  walsh_hadamard(total, n);
  for (int64_t i = 0; i < work.k; ++i) z[i] = sums[i] / static_cast<float>(work.buckets);
}

constexpr Bodies kBodies{kLanes, sum_chunk, finish};

#undef ADAPTINF_APART
#undef ADAPTINF_VECTOR_BYTES
