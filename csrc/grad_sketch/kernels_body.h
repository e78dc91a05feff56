// Included by kernels_cpu.cpp once per instruction set, with ADAPTINF_VECTOR_BYTES set, in a namespace of that set.
// Vectors are the compiler's own; a product and a sum are fused where the set can, and then in every element alike.

constexpr int64_t kLanes = ADAPTINF_VECTOR_BYTES / 4;
constexpr int64_t kMaxRows = kLanes == 16 ? 14 : 6;
constexpr int64_t kTile = 2 * kLanes;
constexpr uint32_t kSignBit = 0x80000000u;

using Vector = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using Loose = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));
using Words = uint32_t __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
using LooseWords = uint32_t __attribute__((vector_size(ADAPTINF_VECTOR_BYTES), aligned(4), may_alias));

#define ADAPTINF_ALWAYS inline __attribute__((always_inline))

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
  return _mm512_maskz_sqrt_ps(0xffff, value);  // the unmasked one draws a false warning
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

// Conversion to float32

ADAPTINF_ALWAYS float widened(float value) { return value; }

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

ADAPTINF_ALWAYS float as_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

ADAPTINF_ALWAYS float widened(BFloat16 value) { return as_float(static_cast<uint32_t>(value.bits) << 16); }

// Subnormal numbers come out of a subtraction: 2^-14 (1 + m) - 2^-14.
ADAPTINF_ALWAYS float widened(Float16 value) {
  const uint32_t magnitude = value.bits & 0x7fffu, sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  const float small = as_float((magnitude << 13) + (113u << 23)) - as_float(113u << 23);
  uint32_t small_bits;
  __builtin_memcpy(&small_bits, &small, 4);
  return as_float((magnitude >= 0x7c00u ? special : magnitude < 0x0400u ? small_bits : normal) | sign);
}

template <typename Source>
ADAPTINF_ALWAYS void widen_as(const Source* source, int64_t step, int64_t rows, int64_t columns, float* target, int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    const Source* from = source + row * step;
    float* to = target + row * width;
    if (columns == kPanel) {  // most often, and unrolled
      for (int64_t column = 0; column < kPanel; ++column) to[column] = widened(from[column]);
    } else {
      for (int64_t column = 0; column < columns; ++column) to[column] = widened(from[column]);
    }
    for (int64_t column = columns; column < width; ++column) to[column] = 0;
  }
}

void widen(const void* source, DType dtype, int64_t step, int64_t rows, int64_t columns, float* target, int64_t width) {
  if (dtype == DType::float32) {
    widen_as(static_cast<const float*>(source), step, rows, columns, target, width);
  } else if (dtype == DType::bfloat16) {
    widen_as(static_cast<const BFloat16*>(source), step, rows, columns, target, width);
  } else {
    widen_as(static_cast<const Float16*>(source), step, rows, columns, target, width);
  }
}

// Products

template <int Rows>
void pack_rows(const float* source, int64_t step, int64_t terms, float* target) {
  for (int64_t term = 0; term < terms; ++term) __builtin_memcpy(target + term * Rows, source + term * step, 4 * Rows);
}

template <int Rows>
void multiply_rows(const float* scalars, const float* vectors, int64_t step, int64_t terms, float* out, bool add) {
  for (int64_t column = 0; column < kPanel; column += kTile) {
    Vector sums[Rows][2] = {};
    const float *s = scalars, *v = vectors + column;
    for (int64_t term = 0; term < terms; ++term, s += Rows, v += step) {
      const Vector left = load(v), right = load(v + kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < Rows; ++i) {
        const Vector scalar = splat(s[i]);
        sums[i][0] = fused(scalar, left, sums[i][0]);
        sums[i][1] = fused(scalar, right, sums[i][1]);
      }
    }
#pragma GCC unroll 14
    for (int i = 0; i < Rows; ++i) {
      float* to = out + i * kPanel + column;
      store(to, add ? load(to) + sums[i][0] : sums[i][0]);
      store(to + kLanes, add ? load(to + kLanes) + sums[i][1] : sums[i][1]);
    }
  }
}

template <int... Rows>
constexpr auto pack_table(std::integer_sequence<int, Rows...>) {
  return std::array{&pack_rows<Rows + 1>...};
}

template <int... Rows>
constexpr auto multiply_table(std::integer_sequence<int, Rows...>) {
  return std::array{&multiply_rows<Rows + 1>...};
}

void pack(const float* source, int64_t step, int64_t terms, int64_t rows, float* target) {
  static constexpr auto table = pack_table(std::make_integer_sequence<int, kMaxRows>());
  table[static_cast<size_t>(rows - 1)](source, step, terms, target);
}

void multiply(const float* scalars, int64_t rows, const float* vectors, int64_t step, int64_t terms, float* out, bool add) {
  static constexpr auto table = multiply_table(std::make_integer_sequence<int, kMaxRows>());
  table[static_cast<size_t>(rows - 1)](scalars, vectors, step, terms, out, add);
}

// Each row's sums are formed alike whatever the rows beside it.
template <int Rows, int Vectors>
ADAPTINF_ALWAYS void row_products_tile(const float* matrix, int64_t step, int64_t terms, const float* weights, int64_t width,
                                       float* out) {
  for (int64_t first = 0; first == 0 || first < terms; first += kTokens) {
    Vector sums[Rows][Vectors] = {};
    for (int64_t term = first; term < std::min(first + kTokens, terms); ++term) {
      Vector w[Vectors];
      for (int j = 0; j < Vectors; ++j) w[j] = load(weights + term * width + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < Rows; ++i)
        for (int j = 0; j < Vectors; ++j) sums[i][j] = fused(splat(matrix[i * step + term]), w[j], sums[i][j]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
      for (int j = 0; j < Vectors; ++j) {
        float* to = out + i * width + j * kLanes;
        store(to, first > 0 ? load(to) + sums[i][j] : sums[i][j]);
      }
  }
}

template <int Rows>
ADAPTINF_ALWAYS void row_products_of(const float* matrix, int64_t step, int64_t terms, const float* weights, int64_t width,
                                     float* out) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= width; column += 2 * kLanes)
    row_products_tile<Rows, 2>(matrix, step, terms, weights + column, width, out + column);
  for (; column < width; column += kLanes)
    row_products_tile<Rows, 1>(matrix, step, terms, weights + column, width, out + column);
}

void row_products(const float* matrix, int64_t step, int64_t rows, int64_t terms, const float* weights, int64_t width,
                  float* out) {
  constexpr int kRows = kLanes == 16 ? 8 : 4;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows)
    row_products_of<kRows>(matrix + row * step, step, terms, weights, width, out + row * width);
  for (; row < rows; ++row) row_products_of<1>(matrix + row * step, step, terms, weights, width, out + row * width);
}

// What is done to a gradient

ADAPTINF_ALWAYS Vector direction(const Preconditioner& by, Vector first, Vector second, Vector gradient) {
  if (by.form == Form::diagonal) return gradient * second;
  const Vector m = fused(splat(by.rest1), gradient, by.beta1 * first);
  const Vector v = fused(by.rest2 * gradient, gradient, by.beta2 * second);
  if (by.form == Form::less) return m / square_root(v + by.eps);
  return by.correction1 * m / (square_root(by.correction2 * v) + by.eps);
}

void precondition(const Preconditioner& by, const float* first, int64_t first_step, const float* second,
                  int64_t second_step, float* values, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; column += kLanes) {
      const int64_t count = std::min(kLanes, columns - column);
      float* value = values + row * kPanel + column;
      const auto state = [&](const float* from) { return count == kLanes ? load(from) : load_some(from, count); };
      const Vector second_state = state(second + row * second_step + column);
      Vector first_state{};
      if (by.form != Form::diagonal) first_state = state(first + row * first_step + column);
      store(value, direction(by, first_state, second_state, load(value)));
    }
}

void scale(const float* factors, float* values, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < kPanel; ++column) values[row * kPanel + column] *= factors[column];
}

// Squares of float32 are exact in float64.
double squared_norm(const float* values, int64_t step, int64_t rows, int64_t columns) {
  double lanes[16] = {};
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = values + row * step;
    int64_t column = 0;
    for (; column + 16 <= columns; column += 16)
      for (int64_t lane = 0; lane < 16; ++lane) {
        const double value = from[column + lane];
        lanes[lane] += value * value;
      }
    for (int64_t lane = 0; column + lane < columns; ++lane) {
      const double value = from[column + lane];
      lanes[lane] += value * value;
    }
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

void column_sums(const float* values, const float* factors, int64_t rows, int64_t columns, double* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = values + row * columns;
    if (factors == nullptr) {
      for (int64_t column = 0; column < columns; ++column) sums[column] += from[column];
    } else {
      const float* by = factors + row * columns;
      for (int64_t column = 0; column < columns; ++column)
        sums[column] += static_cast<double>(from[column]) * static_cast<double>(by[column]);
    }
  }
}

// Sketching

// Rows first to last of a panel, `count` columns from `offset` on, to rows of the accumulator that wrap around at `turns`.
template <bool Whole>
ADAPTINF_ALWAYS void add_rows(const float* values, int64_t step, const uint32_t* signs, int64_t offset, int64_t count,
                              int64_t rows, float* to, int64_t to_step) {
  for (int64_t row = 0; row < rows; ++row, to += to_step) {
    const float* from = values + row * step;
    if (Whole) {
      store(to, load(to) + flip(load(from), signs[row] >> offset));
    } else {
      store_some(to, load_some(to, count) + flip(load_some(from, count), signs[row] >> offset), count);
    }
  }
}

void sjlt(const SjltPanel& panel, float* accumulators) {
  const int64_t width = panel.tile_vector + kVectorPad;
  for (int64_t slice = 0; slice < panel.slices; ++slice) {
    const uint32_t* signs = panel.signs + slice * panel.sign_slice;
    float* base = accumulators + slice * panel.tile_scalar * width;
    for (int64_t offset = 0; offset < panel.columns;) {
      const int64_t tile = (panel.column + offset) / panel.tile_vector;
      const int64_t local = panel.column + offset - tile * panel.tile_vector;
      const int64_t count = std::min({kLanes, panel.columns - offset, panel.tile_vector - local});
      for (int64_t index = 0; index < panel.n_runs; ++index) {
        const Run& run = panel.runs[index];
        const Turn turn = panel.turns[(slice * panel.n_runs + index) * panel.n_tiles + tile - panel.first_tile];
        int64_t column = local + turn.vector, row = run.local + turn.scalar;
        column -= column >= panel.tile_vector ? panel.tile_vector : 0;
        row -= row >= panel.tile_scalar ? panel.tile_scalar : 0;
        const int64_t before = std::min(run.last - run.first, panel.tile_scalar - row);
        const float* values = panel.values + run.first * panel.step + offset;
        const auto add = [&](int64_t skip, int64_t rows, float* to) {
          const float* from = values + skip * panel.step;
          const uint32_t* bits = signs + run.first + skip;
          if (count == kLanes) {
            add_rows<true>(from, panel.step, bits, offset, count, rows, to, width);
          } else {
            add_rows<false>(from, panel.step, bits, offset, count, rows, to, width);
          }
        };
        add(0, before, base + row * width + column);
        if (before < run.last - run.first) add(before, run.last - run.first - before, base + column);
      }
      offset += count;
    }
  }
}

constexpr int kCounters = 16;  // counters side by side

void sign_words(PhiloxKey key, uint32_t domain, const uint32_t* row_ids, int64_t rows, uint64_t first_block, int64_t blocks,
                uint32_t* out) {
  uint32_t c0[kCounters], c1[kCounters], c2[kCounters], c3[kCounters];
  const int64_t total = rows * blocks;
  for (int64_t first = 0; first < total; first += kCounters) {
    const int64_t count = std::min<int64_t>(kCounters, total - first);
    int64_t block = first / rows, row = first - block * rows;
    uint32_t* targets[kCounters];
    for (int64_t lane = 0; lane < kCounters; ++lane) {
      const uint64_t counter = first_block + static_cast<uint64_t>(block);
      c0[lane] = static_cast<uint32_t>(counter);
      c1[lane] = static_cast<uint32_t>(counter >> 32);
      c2[lane] = row_ids[row];
      c3[lane] = domain;
      targets[lane] = out + 4 * block * rows + row;
      if (lane + 1 < count && ++row == rows) row = 0, ++block;  // lanes past the end repeat the last counter
    }
    philox4x32_10<kCounters>(c0, c1, c2, c3, key);
    for (int64_t lane = 0; lane < count; ++lane) {
      targets[lane][0] = c0[lane];
      targets[lane][rows] = c1[lane];
      targets[lane][2 * rows] = c2[lane];
      targets[lane][3 * rows] = c3[lane];
    }
  }
}

void turn_words(PhiloxKey key, uint64_t first, uint32_t word2, uint32_t word3, int64_t count, uint32_t (*out)[2]) {
  uint32_t c0[kCounters], c1[kCounters], c2[kCounters], c3[kCounters];
  for (int64_t start = 0; start < count; start += kCounters) {
    for (int lane = 0; lane < kCounters; ++lane) {
      const uint64_t counter = first + static_cast<uint64_t>(start + lane);
      c0[lane] = static_cast<uint32_t>(counter);
      c1[lane] = static_cast<uint32_t>(counter >> 32);
      c2[lane] = word2;
      c3[lane] = word3;
    }
    philox4x32_10<kCounters>(c0, c1, c2, c3, key);
    for (int64_t lane = 0; lane < std::min<int64_t>(kCounters, count - start); ++lane) {
      out[start + lane][0] = c0[lane];
      out[start + lane][1] = c1[lane];
    }
  }
}

void sign_panel(const uint32_t* words, float* out) {
  for (int64_t first = 0; first < kPanel; first += kLanes) {
    const Words bits = *reinterpret_cast<const LooseWords*>(words + first);
    for (int bit = 0; bit < 32; ++bit)
      store(out + bit * kPanel + first, reinterpret_cast<Vector>(((bits << (31 - bit)) & kSignBit) | 0x3f800000u));
  }
}

const Kernels& table() {
  static const Kernels kernels{kMaxRows, widen, pack, multiply, row_products, precondition, scale,
                               squared_norm, sjlt, sign_words, turn_words, sign_panel, column_sums};
  return kernels;
}

#undef ADAPTINF_ALWAYS
#undef ADAPTINF_VECTOR_BYTES
