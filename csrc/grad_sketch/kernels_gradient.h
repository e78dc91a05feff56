// Included once per instruction set, in a namespace of that set; see kernels_vector.h.

// Conversion to float32

using adaptinf::widen_row;

#if ADAPTINF_VECTOR_BYTES > 16
ADAPTINF_ALWAYS void widen_row(const Float16* from, int64_t columns, float* to) {
  int64_t column = 0;
  for (; column + 8 <= columns; column += 8)
    _mm256_storeu_ps(to + column, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + column))));
  for (; column < columns; ++column) to[column] = widened(from[column]);
}
#endif

template <typename Source>
ADAPTINF_ALWAYS void widen_as(const Source* source, int64_t step, int64_t rows, int64_t columns, float* target,
                              int64_t width) {
  for (int64_t row = 0; row < rows; ++row) {
    float* to = target + row * width;
    if (columns == kPanel) {  // most often, and unrolled
      widen_row(source + row * step, kPanel, to);
    } else {
      widen_row(source + row * step, columns, to);
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
                  int64_t second_step, float* values, int64_t step, int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; column += kLanes) {
      const int64_t count = std::min(kLanes, columns - column);
      float* value = values + row * step + column;
      const auto state = [&](const float* from) { return count == kLanes ? load(from) : load_some(from, count); };
      const Vector second_state = state(second + row * second_step + column);
      Vector first_state{};
      if (by.form != Form::diagonal) first_state = state(first + row * first_step + column);
      if (count == kLanes) {
        store(value, direction(by, first_state, second_state, load(value)));
      } else {
        store_some(value, direction(by, first_state, second_state, load_some(value, count)), count);
      }
    }
}

void scale(const float* factors, float* values, int64_t rows) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < kPanel; ++column) values[row * kPanel + column] *= factors[column];
}

// Squares of float32 are exact in float64.
double squared_norm(const float* values, int64_t step, int64_t rows, int64_t columns) {
  constexpr int64_t kHalf = kLanes / 2;  // as many float64 make a vector
  using Half = float __attribute__((vector_size(ADAPTINF_VECTOR_BYTES / 2), aligned(4), may_alias));
  using Doubles = double __attribute__((vector_size(ADAPTINF_VECTOR_BYTES)));
  Doubles sums[2]{};
  double rest = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = values + row * step;
    int64_t column = 0;
    for (; column + kLanes <= columns; column += kLanes)
      for (int64_t half = 0; half < 2; ++half) {
        const auto value = __builtin_convertvector(*reinterpret_cast<const Half*>(from + column + half * kHalf), Doubles);
        sums[half] += value * value;
      }
    for (; column < columns; ++column) rest += static_cast<double>(from[column]) * static_cast<double>(from[column]);
  }
  for (const Doubles& part : sums)
    for (int64_t lane = 0; lane < kHalf; ++lane) rest += part[lane];
  return rest;
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
