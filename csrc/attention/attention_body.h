// The work on one head of keys. Everything is copied into buffers whose rows are filled up with zeros to whole vectors, so
// that the products have no edges. Included once per instruction set, of whose registers kLanes floats fill one.

#include "../common/lanes_body.h"

constexpr int64_t kRows = 4;      // rows of a product held in registers
constexpr int64_t kQueries = 32;  // queries scored at once

ADAPTINF_ALWAYS int64_t padded(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// c (+)= a b, kRows rows of a and `Wide` vectors of b; where Across, a is stored by columns.
template <int Wide, bool Across>
ADAPTINF_ALWAYS void tile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                          int64_t depth, bool adds) {
  Float sums[kRows][Wide];
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t wide = 0; wide < Wide; ++wide)
      sums[row][wide] = adds ? load(c + row * c_stride + wide * kLanes) : Float{};
  for (int64_t k = 0; k < depth; ++k) {
    Float of_b[Wide];
    for (int64_t wide = 0; wide < Wide; ++wide) of_b[wide] = load(b + k * b_stride + wide * kLanes);
    for (int64_t row = 0; row < kRows; ++row) {
      const float of_a = Across ? a[k * a_stride + row] : a[row * a_stride + k];
      for (int64_t wide = 0; wide < Wide; ++wide) sums[row][wide] += of_b[wide] * of_a;
    }
  }
  for (int64_t row = 0; row < kRows; ++row)
    for (int64_t wide = 0; wide < Wide; ++wide) store(c + row * c_stride + wide * kLanes, sums[row][wide]);
}

// Rows in multiples of kRows, columns in multiples of kLanes.
template <bool Across = false>
ADAPTINF_ALWAYS void product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                             int64_t rows, int64_t depth, int64_t columns, bool adds) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes)
    for (int64_t row = 0; row < rows; row += kRows)
      tile<2, Across>(a + (Across ? row : row * a_stride), a_stride, b + column, b_stride, c + row * c_stride + column,
                      c_stride, depth, adds);
  if (column < columns)
    for (int64_t row = 0; row < rows; row += kRows)
      tile<1, Across>(a + (Across ? row : row * a_stride), a_stride, b + column, b_stride, c + row * c_stride + column,
                      c_stride, depth, adds);
}

// `count` rows of `width` as rows of `stride`, times `factor`; what is beyond them in the `total` rows is zero.
ADAPTINF_ALWAYS void gather(const float* from, int64_t from_stride, int64_t count, int64_t width, float factor, float* to,
                            int64_t stride, int64_t total) {
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < width; ++i) to[row * stride + i] = from[row * from_stride + i] * factor;
    std::fill(to + row * stride + width, to + (row + 1) * stride, 0.0f);
  }
  std::fill(to + count * stride, to + total * stride, 0.0f);
}

// The same, transposed: [width, stride].
ADAPTINF_ALWAYS void gather_transposed(const float* from, int64_t from_stride, int64_t count, int64_t width, float* to,
                                       int64_t stride) {
  const int64_t whole = width / kLanes * kLanes;
  for (int64_t row = 0; row < stride; row += kLanes)
    for (int64_t column = 0; column < whole; column += kLanes) {
      Float block[kLanes];
      for (int64_t i = 0; i < kLanes; ++i)
        block[i] = row + i < count ? load(from + (row + i) * from_stride + column) : Float{};
      transpose(block);
      for (int64_t i = 0; i < kLanes; ++i) store(to + (column + i) * stride + row, block[i]);
    }
  for (int64_t column = whole; column < width; ++column)
    for (int64_t row = 0; row < stride; ++row)
      to[column * stride + row] = row < count ? from[row * from_stride + column] : 0.0f;
}

ADAPTINF_ALWAYS void scatter(const float* from, int64_t stride, int64_t count, int64_t width, const float* factors,
                             float factor, float* to, int64_t to_stride) {
  for (int64_t row = 0; row < count; ++row) {
    const float scale = factors ? factors[row] : factor;
    for (int64_t i = 0; i < width; ++i) to[row * to_stride + i] = from[row * stride + i] * scale;
  }
}

// Minus infinity where the query does not see the key; `columns` beyond the keys are not seen by any.
ADAPTINF_ALWAYS void hide(const Problem& problem, const int8_t* mask, int64_t query, int64_t columns, float* scores) {
  const int64_t seen = problem.causal ? std::min(problem.keys, query + 1) : problem.keys;
  if (mask)
    for (int64_t key = 0; key < std::min(seen, columns); ++key) scores[key] = mask[key] ? scores[key] : -kInfinity;
  if (seen < columns) std::fill(scores + seen, scores + columns, -kInfinity);
}

// How many keys, in whole vectors, the queries `first` to `last` may see.
ADAPTINF_ALWAYS int64_t columns_for(const Problem& problem, int64_t last) {
  return padded(problem.causal ? std::min(problem.keys, last) : problem.keys);
}

ADAPTINF_ALWAYS const int8_t* mask_row(const Problem& problem, int64_t batch, int64_t head, int64_t query) {
  const Mask& mask = problem.mask;
  return mask.data ? mask.data + batch * mask.batch_stride + head * mask.head_stride + query * mask.row_stride : nullptr;
}

// e^(x - shift) of every score in place, and their sum.
ADAPTINF_ALWAYS float exponentials(float* scores, int64_t columns, float shift) {
  Float sum{};
  for (int64_t column = 0; column < columns; column += kLanes) {
    Float x = load(scores + column) - shift, e;
    exp_nonpositive<kLanes>(x, e);
    sum += e;
    store(scores + column, e);
  }
  return sum_of_lanes(sum);
}

ADAPTINF_ALWAYS float largest(const float* scores, int64_t columns) {
  Float most = load(scores);
  for (int64_t column = kLanes; column < columns; column += kLanes) {
    const Float x = load(scores + column);
    most = x > most ? x : most;
  }
  return largest_of_lanes(most);
}

void forward_head(const Problem& problem, const Heads& out, float* log_sums, int64_t batch, int64_t key_head) {
  const int64_t keys = padded(problem.keys), values = padded(problem.value_width), width = problem.width;
  const int64_t group = problem.heads / problem.key_heads;
  Scratch scratch(width * keys + keys * values + kQueries * (width + keys + values));
  float* const k = scratch.take(width * keys);
  float* const v = scratch.take(keys * values);
  float* const q = scratch.take(kQueries * width);
  float* const p = scratch.take(kQueries * keys);
  float* const o = scratch.take(kQueries * values);
  gather_transposed(problem.key.head(batch, key_head), problem.key.row_stride, problem.keys, width, k, keys);
  gather(problem.value.head(batch, key_head), problem.value.row_stride, problem.keys, problem.value_width, 1.0f, v, values,
         keys);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head)
    for (int64_t first = 0; first < problem.queries; first += kQueries) {
      const int64_t count = std::min(kQueries, problem.queries - first), rows = (count + kRows - 1) / kRows * kRows;
      const int64_t columns = columns_for(problem, first + count);
      gather(problem.query.head(batch, head) + first * problem.query.row_stride, problem.query.row_stride, count, width,
             problem.scale, q, width, rows);
      product(q, width, k, keys, p, keys, rows, width, columns, false);
      float normalisers[kQueries];
      for (int64_t row = 0; row < count; ++row) {
        float* const scores = p + row * keys;
        hide(problem, mask_row(problem, batch, head, first + row), first + row, columns, scores);
        const float most = columns ? largest(scores, columns) : -kInfinity;
        const float sum = exponentials(scores, columns, most == -kInfinity ? 0.0f : most);
        const bool blind = sum == 0.0f;  // NaN is not
        normalisers[row] = blind ? 0.0f : 1.0f / sum;
        log_sums[(batch * problem.heads + head) * problem.queries + first + row] = blind ? -kInfinity : most + std::log(sum);
      }
      product(p, keys, v, values, o, values, rows, std::min(columns, problem.keys), values, false);
      scatter(o, values, count, problem.value_width, normalisers, 1.0f,
              out.head(batch, head) + first * out.row_stride, out.row_stride);
    }
}

// With P the probabilities and D_i = sum_j P_ij (dO V^T)_ij: dV = P^T dO, dS = P (dO V^T - D), dQ = scale dS K,
// dK = scale dS^T Q.
void backward_head(const Problem& problem, const float* log_sums, const Heads& out_gradient, const Gradients& gradients,
                   int64_t batch, int64_t key_head) {
  const int64_t keys = padded(problem.keys), width = padded(problem.width), values = padded(problem.value_width);
  const int64_t group = problem.heads / problem.key_heads;
  Scratch scratch((problem.width + problem.value_width) * keys + keys * (2 * width + values) +
                  kQueries * (2 * width + 2 * keys + values));
  float* const k_across = scratch.take(problem.width * keys);
  float* const v_across = scratch.take(problem.value_width * keys);
  float* const k = scratch.take(keys * width);
  float* const dk = scratch.take(keys * width);
  float* const dv = scratch.take(keys * values);
  float* const q = scratch.take(kQueries * width);
  float* const dq = scratch.take(kQueries * width);
  float* const p = scratch.take(kQueries * keys);
  float* const ds = scratch.take(kQueries * keys);
  float* const grad = scratch.take(kQueries * values);
  const float* const key = problem.key.head(batch, key_head);
  gather_transposed(key, problem.key.row_stride, problem.keys, problem.width, k_across, keys);
  gather_transposed(problem.value.head(batch, key_head), problem.value.row_stride, problem.keys, problem.value_width,
                    v_across, keys);
  gather(key, problem.key.row_stride, problem.keys, problem.width, 1.0f, k, width, keys);
  std::fill(dk, dk + keys * width, 0.0f);
  std::fill(dv, dv + keys * values, 0.0f);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head)
    for (int64_t first = 0; first < problem.queries; first += kQueries) {
      const int64_t count = std::min(kQueries, problem.queries - first), rows = (count + kRows - 1) / kRows * kRows;
      const int64_t columns = columns_for(problem, first + count);
      gather(problem.query.head(batch, head) + first * problem.query.row_stride, problem.query.row_stride, count,
             problem.width, problem.scale, q, width, rows);
      gather(out_gradient.head(batch, head) + first * out_gradient.row_stride, out_gradient.row_stride, count,
             problem.value_width, 1.0f, grad, values, rows);
      product(q, width, k_across, keys, p, keys, rows, problem.width, columns, false);
      product(grad, values, v_across, keys, ds, keys, rows, problem.value_width, columns, false);
      for (int64_t row = 0; row < count; ++row) {
        float *const scores = p + row * keys, *const slopes = ds + row * keys;
        const float log_sum = log_sums[(batch * problem.heads + head) * problem.queries + first + row];
        hide(problem, mask_row(problem, batch, head, first + row), first + row, columns, scores);
        exponentials(scores, columns, log_sum == -kInfinity ? 0.0f : log_sum);
        Float sum{};
        for (int64_t column = 0; column < columns; column += kLanes)
          sum += load(scores + column) * load(slopes + column);
        const float mean = sum_of_lanes(sum);
        for (int64_t column = 0; column < columns; column += kLanes)
          store(slopes + column,
                               load(scores + column) * (load(slopes + column) - mean));
      }
      product<true>(p, keys, grad, values, dv, values, columns, count, values, true);
      product<true>(ds, keys, q, width, dk, width, columns, count, width, true);
      product(ds, keys, k, width, dq, width, rows, std::min(columns, problem.keys), width, false);
      scatter(dq, width, count, problem.width, nullptr, problem.scale,
              gradients.query.head(batch, head) + first * gradients.query.row_stride, gradients.query.row_stride);
    }
  scatter(dk, width, problem.keys, problem.width, nullptr, 1.0f, gradients.key.head(batch, key_head),
          gradients.key.row_stride);
  scatter(dv, values, problem.keys, problem.value_width, nullptr, 1.0f, gradients.value.head(batch, key_head),
          gradients.value.row_stride);
}
