// Samples are cut into pieces, pieces are gathered into groups of whole ones, and every pair of groups is a task: the two
// token products by register tiles, which know nothing of samples, then a sum for every pair of pieces. A product of two
// tokens is a sum over the width in one fixed order wherever it is computed, so only the pieces decide an entry's bits.
#include "grad_gram.h"

#include <algorithm>

#include "../common/parallel.h"

namespace adaptinf {
namespace {

constexpr int64_t kPiece = 32;   // tokens of a sample
constexpr int64_t kGroup = 128;  // tokens; their operands of one product stay in the second cache
constexpr int64_t kWide = kTokens + 16;  // floats from a token to the next as they are turned, not a power of two

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// One matrix, turned: panel p holds tokens kPanel * p on of its group, [width][kPanel], zeros for those beyond the end.
struct Turned {
  int64_t width;
  Floats memory;
  const float* panel(int64_t panel) { return memory.reserve(0) + panel * width * kPanel; }
};

struct Packed {
  std::vector<Range> pieces;   // of tokens
  std::vector<Range> samples;  // of pieces
  std::vector<Range> groups;   // of pieces
  std::vector<int64_t> panels; // of the groups before
  Turned x, grad_out;

  Range tokens(int64_t group) const {
    const Range& all = groups[static_cast<size_t>(group)];
    return {pieces[static_cast<size_t>(all.first)].first, pieces[static_cast<size_t>(all.last - 1)].last};
  }
};

void cut(const std::vector<int64_t>& bounds, Packed& packed) {
  for (size_t sample = 0; sample + 1 < bounds.size(); ++sample) {
    const auto first = static_cast<int64_t>(packed.pieces.size());
    for (int64_t token = bounds[sample]; token < bounds[sample + 1]; token += kPiece)
      packed.pieces.push_back({token, std::min(token + kPiece, bounds[sample + 1])});
    packed.samples.push_back({first, static_cast<int64_t>(packed.pieces.size())});
  }
  const auto count = static_cast<int64_t>(packed.pieces.size());
  packed.panels.push_back(0);
  for (int64_t first = 0, last = 0; first < count; first = last) {
    const int64_t start = packed.pieces[static_cast<size_t>(first)].first;
    while (last < count && packed.pieces[static_cast<size_t>(last)].last - start <= kGroup) ++last;
    packed.groups.push_back({first, last});
    const int64_t tokens = packed.pieces[static_cast<size_t>(last - 1)].last - start;
    packed.panels.push_back(packed.panels.back() + (tokens + kPanel - 1) / kPanel);
  }
}

// Four by four numbers, so that memory is touched in vectors.
void turn(const float* source, int64_t source_step, float* target, int64_t target_step) {
  using Four = float __attribute__((vector_size(16), aligned(4), may_alias));
  const auto at = [&](int64_t row) { return *reinterpret_cast<const Four*>(source + row * source_step); };
  const Four a = at(0), b = at(1), c = at(2), d = at(3);
  const Four ab_low = {a[0], b[0], a[1], b[1]}, ab_high = {a[2], b[2], a[3], b[3]};
  const Four cd_low = {c[0], d[0], c[1], d[1]}, cd_high = {c[2], d[2], c[3], d[3]};
  const Four turned[4] = {{ab_low[0], ab_low[1], cd_low[0], cd_low[1]},
                          {ab_low[2], ab_low[3], cd_low[2], cd_low[3]},
                          {ab_high[0], ab_high[1], cd_high[0], cd_high[1]},
                          {ab_high[2], ab_high[3], cd_high[2], cd_high[3]}};
  for (int64_t row = 0; row < 4; ++row) *reinterpret_cast<Four*>(target + row * target_step) = turned[row];
}

// Tokens of one panel. Memory of `wide`: [kPanel][kWide].
void turn_panel(const Matrix& matrix, Range tokens, float* wide, float* panel, const Kernels& kernels) {
  for (int64_t first = 0; first < matrix.columns; first += kTokens) {
    const int64_t terms = std::min(kTokens, matrix.columns - first);
    kernels.widen(matrix.at(tokens.first, first), matrix.dtype, matrix.step, tokens.size(), terms, wide, kWide);
    std::fill(wide + tokens.size() * kWide, wide + kPanel * kWide, 0.0f);
    float* const target = panel + first * kPanel;
    const int64_t fours = terms / 4 * 4;
    for (int64_t term = 0; term < fours; term += 4)
      for (int64_t token = 0; token < kPanel; token += 4)
        turn(wide + token * kWide + term, kWide, target + term * kPanel + token, kPanel);
    for (int64_t term = fours; term < terms; ++term)
      for (int64_t token = 0; token < kPanel; ++token) target[term * kPanel + token] = wide[token * kWide + term];
  }
}

Packed pack(const Samples& samples, const Kernels& kernels, int threads) {
  Packed packed;
  cut(samples.bounds, packed);
  packed.x.width = samples.x.columns;
  packed.grad_out.width = samples.grad_out.columns;
  float* const x = packed.x.memory.reserve(packed.panels.back() * kPanel * packed.x.width);
  float* const grad_out = packed.grad_out.memory.reserve(packed.panels.back() * kPanel * packed.grad_out.width);
  parallel_for(static_cast<int64_t>(packed.groups.size()), threads, [&](int64_t group) {
    const Range tokens = packed.tokens(group);
    Floats memory;
    float* const wide = memory.reserve(kPanel * kWide);
    int64_t panel = packed.panels[static_cast<size_t>(group)] * kPanel;
    for (int64_t first = tokens.first; first < tokens.last; first += kPanel, panel += kPanel) {
      const Range part{first, std::min(first + kPanel, tokens.last)};
      turn_panel(samples.x, part, wide, x + panel * packed.x.width, kernels);
      turn_panel(samples.grad_out, part, wide, grad_out + panel * packed.grad_out.width, kernels);
    }
  });
  return packed;
}

// The product of token t of a group of `rows` and u of one of `columns`, out[(u div kPanel * kGroup + t) * kPanel + u mod kPanel].
// Memory of `scalars`: [kGroup][kTokens].
void token_products(Turned& rows, int64_t row_panel, int64_t row_tokens, Turned& columns, int64_t column_panel,
                    int64_t column_tokens, float* scalars, float* out, const Kernels& kernels) {
  struct Tile {
    int64_t first, rows;
  };
  std::vector<Tile> tiles;  // of a panel each, as equal as can be
  for (int64_t start = 0; start < row_tokens; start += kPanel) {
    const int64_t end = std::min(start + kPanel, row_tokens);
    int64_t left = (end - start + kernels.max_rows - 1) / kernels.max_rows;
    for (int64_t row = start; row < end; row += tiles.back().rows) tiles.push_back({row, (end - row) / left--});
  }
  for (int64_t first = 0; first == 0 || first < rows.width; first += kTokens) {
    const int64_t terms = std::min(kTokens, rows.width - first);
    for (const Tile& tile : tiles)
      kernels.pack(rows.panel(row_panel + tile.first / kPanel) + first * kPanel + tile.first % kPanel, kPanel, terms,
                   tile.rows, scalars + tile.first * kTokens);
    for (int64_t panel = 0; panel * kPanel < column_tokens; ++panel)
      for (const Tile& tile : tiles)
        kernels.multiply(scalars + tile.first * kTokens, tile.rows, columns.panel(column_panel + panel) + first * kPanel,
                         kPanel, terms, out + (panel * kGroup + tile.first) * kPanel, first > 0);
  }
}

// Half the sum of row sums and half that of column sums: of the transposed numbers it is the same, bit by bit.
template <typename Value>
double sum_both_ways(int64_t rows, int64_t columns, const Value& value) {
  std::vector<double> memory(static_cast<size_t>(columns), 0.0);
  double* const column_sums = memory.data();
  double by_rows = 0, by_columns = 0;
  for (int64_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (int64_t column = 0; column < columns; ++column) {
      const double one = value(row, column);
      sum += one;
      column_sums[column] += one;
    }
    by_rows += sum;
  }
  for (const double sum : memory) by_columns += sum;
  return 0.5 * (by_rows + by_columns);
}

}  // namespace

void grad_gram(const Samples& rows, const std::optional<Samples>& columns, float* out, int64_t step, const Kernels& kernels,
               int threads) {
  Packed left = pack(rows, kernels, threads);
  Packed others;
  if (columns) others = pack(*columns, kernels, threads);
  Packed& right = columns ? others : left;
  const auto width = static_cast<int64_t>(right.pieces.size()), groups = static_cast<int64_t>(right.groups.size());
  std::vector<double> sums(left.pieces.size() * right.pieces.size());  // of pairs of pieces
  parallel_for(static_cast<int64_t>(left.groups.size()) * groups, threads, [&](int64_t task) {
    const int64_t row = task / groups, column = task % groups;
    if (!columns && column > row) return;
    const Range row_tokens = left.tokens(row), column_tokens = right.tokens(column);
    const int64_t row_panel = left.panels[static_cast<size_t>(row)], column_panel = right.panels[static_cast<size_t>(column)];
    Floats scalars, of_x, of_grad_out;
    const auto products = [&](Turned& one, Turned& other, Floats& memory) {
      token_products(one, row_panel, row_tokens.size(), other, column_panel, column_tokens.size(),
                     scalars.reserve(kGroup * kTokens), memory.reserve(kGroup * kGroup), kernels);
      return memory.reserve(0);
    };
    const float *const x = products(left.x, right.x, of_x),
                *const g = products(left.grad_out, right.grad_out, of_grad_out);
    const Range row_pieces = left.groups[static_cast<size_t>(row)], column_pieces = right.groups[static_cast<size_t>(column)];
    for (int64_t i = row_pieces.first; i < row_pieces.last; ++i)
      for (int64_t j = column_pieces.first; j < column_pieces.last; ++j) {
        const Range ts = left.pieces[static_cast<size_t>(i)], us = right.pieces[static_cast<size_t>(j)];
        sums[static_cast<size_t>(i * width + j)] = sum_both_ways(ts.size(), us.size(), [&](int64_t t, int64_t u) {
          const int64_t from = ts.first - row_tokens.first + t, to = us.first - column_tokens.first + u;
          const int64_t at = (to / kPanel * kGroup + from) * kPanel + to % kPanel;
          return static_cast<double>(x[at]) * static_cast<double>(g[at]);  // exact
        });
      }
  });
  const auto at = [&](int64_t i, int64_t j) { return sums[static_cast<size_t>(!columns && j > i ? j * width + i : i * width + j)]; };
  for (size_t b = 0; b < left.samples.size(); ++b)
    for (size_t c = 0; c < right.samples.size(); ++c) {
      const Range is = left.samples[b], js = right.samples[c];
      const double sum = sum_both_ways(is.size(), js.size(), [&](int64_t i, int64_t j) { return at(is.first + i, js.first + j); });
      out[static_cast<int64_t>(b) * step + static_cast<int64_t>(c)] = static_cast<float>(sum);
    }
}

}  // namespace adaptinf
