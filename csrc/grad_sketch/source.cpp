#include "source.h"

#include <algorithm>

namespace adaptinf {
namespace {

constexpr int64_t kUnpackedRows = 28;  // a panel of vectors that so few rows use is read where it lies
constexpr int64_t kPacked = 32;        // tokens taken at once
constexpr int64_t kGivenEntries = 1 << 12;

int64_t bytes_of(DType dtype) { return (static_cast<int64_t>(dtype) & 0xff) / 8; }

// Rows of the register tiles that cover `rows`, as equal as can be: the first `longer` have one row more.
struct Tiles {
  Tiles(int64_t rows, int64_t most) : count((rows + most - 1) / most), size(rows / count), longer(rows % count) {}
  int64_t of(int64_t tile) const { return size + (tile < longer ? 1 : 0); }
  int64_t count, size, longer;
};

}  // namespace

Matrix::Matrix(const TensorView& view)
    : data(static_cast<const char*>(view.data)),
      rows(view.shape[0]),
      columns(view.shape[1]),
      step(view.shape[0] > 1 ? view.strides[0] : 0),
      dtype(view.dtype) {}

Matrix::Matrix(const float* values, int64_t rows_, int64_t columns_, int64_t step_)
    : data(reinterpret_cast<const char*>(values)), rows(rows_), columns(columns_), step(step_), dtype(DType::float32) {}

const void* Matrix::at(int64_t row, int64_t column) const { return data + (row * step + column) * bytes_of(dtype); }

Products::Products(const Kernels& kernels, Matrix scalars, Matrix vectors, const std::vector<int64_t>& bounds,
                   const float* factors)
    : kernels_(kernels), scalars_(scalars), vectors_(vectors), bounds_(bounds), factors_(factors) {}

int64_t Products::samples() const { return static_cast<int64_t>(bounds_.size()) - 1; }

bool Products::is_empty(int64_t sample) const {
  return bounds_[static_cast<size_t>(sample)] == bounds_[static_cast<size_t>(sample) + 1];
}

// Register tile by register tile, [tokens][rows of the tile] each.
void Products::prepare(int64_t sample, int64_t first, int64_t rows, Workspace& workspace) const {
  const int64_t start = bounds_[static_cast<size_t>(sample)], tokens = bounds_[static_cast<size_t>(sample) + 1] - start;
  const Tiles tiles(rows, kernels_.max_rows);
  float* packed = workspace.scalars.reserve(tokens * rows);
  for (int64_t token = 0; token < tokens; token += kPacked) {
    const int64_t terms = std::min(kPacked, tokens - token);
    const float* from;
    int64_t step = scalars_.step;
    if (scalars_.dtype == DType::float32) {
      from = scalars_.floats(start + token, first);
    } else {
      float* wide = workspace.wide.reserve(kPacked * rows);
      kernels_.widen(scalars_.at(start + token, first), scalars_.dtype, scalars_.step, terms, rows, wide, rows);
      from = wide;
      step = rows;
    }
    for (int64_t tile = 0, row = 0; tile < tiles.count; row += tiles.of(tile++))
      kernels_.pack(from + row, step, terms, tiles.of(tile), packed + row * tokens + token * tiles.of(tile));
  }
}

int64_t Products::panel_columns(int64_t) const { return kPanel; }

Panel Products::panel(int64_t sample, int64_t, int64_t rows, int64_t column, int64_t columns, bool,
                      Workspace& workspace) const {
  const int64_t start = bounds_[static_cast<size_t>(sample)], tokens = bounds_[static_cast<size_t>(sample) + 1] - start;
  const Tiles tiles(rows, kernels_.max_rows);
  const bool packs = vectors_.dtype != DType::float32 || columns < kPanel || rows > kUnpackedRows;
  float* out = workspace.panel.reserve(rows * kPanel);
  for (int64_t token = 0; token < tokens; token += kTokens) {
    const int64_t terms = std::min(kTokens, tokens - token);
    const float* vectors;
    int64_t step = vectors_.step;
    if (packs) {
      float* packed = workspace.vectors.reserve(kTokens * kPanel);
      kernels_.widen(vectors_.at(start + token, column), vectors_.dtype, vectors_.step, terms, columns, packed, kPanel);
      vectors = packed;
      step = kPanel;
    } else {
      vectors = vectors_.floats(start + token, column);
    }
    for (int64_t tile = 0, row = 0; tile < tiles.count; row += tiles.of(tile++))
      kernels_.multiply(workspace.scalars.reserve(0) + row * tokens + token * tiles.of(tile), tiles.of(tile), vectors, step,
                        terms, out + row * kPanel, token > 0);
  }
  if (factors_ != nullptr) {
    float factors[kPanel] = {};
    std::copy_n(factors_ + column, columns, factors);
    kernels_.scale(factors, out, rows);
  }
  return {out, kPanel};
}

Given::Given(const Kernels& kernels, Matrix gradients, int64_t columns, const std::vector<bool>& empty)
    : kernels_(kernels), gradients_(gradients), columns_(columns), empty_(empty) {}

int64_t Given::samples() const { return gradients_.rows; }

bool Given::is_empty(int64_t sample) const { return !empty_.empty() && empty_[static_cast<size_t>(sample)]; }

void Given::prepare(int64_t, int64_t, int64_t, Workspace&) const {}

int64_t Given::panel_columns(int64_t rows) const { return std::max<int64_t>(1, kGivenEntries / (kPanel * rows)) * kPanel; }

Panel Given::panel(int64_t sample, int64_t first, int64_t rows, int64_t column, int64_t columns, bool writable,
                   Workspace& workspace) const {
  const int64_t at = first * columns_ + column;
  if (gradients_.dtype == DType::float32 && !writable) return {gradients_.floats(sample, at), columns_};
  float* out = workspace.panel.reserve(rows * columns);
  kernels_.widen(gradients_.at(sample, at), gradients_.dtype, columns_, rows, columns, out, columns);
  return {out, columns};
}

void add_tokens(const Matrix& values, const std::optional<Matrix>& factors, int64_t first, int64_t last, double* sums,
                Workspace& workspace, const Kernels& kernels) {
  const int64_t columns = values.columns;
  for (int64_t token = first; token < last; token += kPacked) {
    const int64_t rows = std::min(kPacked, last - token);
    float* const wide = workspace.vectors.reserve(kPacked * columns);
    kernels.widen(values.at(token, 0), values.dtype, values.step, rows, columns, wide, columns);
    float* by = nullptr;
    if (factors) {
      by = workspace.scalars.reserve(kPacked * columns);
      kernels.widen(factors->at(token, 0), factors->dtype, factors->step, rows, columns, by, columns);
    }
    kernels.column_sums(wide, by, rows, columns, sums);
  }
}

void precondition_panel(const State& state, Workspace& workspace, int64_t step, int64_t row, int64_t rows, int64_t column,
                        int64_t columns, const Kernels& kernels) {
  const float* const first = state.first == nullptr ? nullptr : state.first + row * state.first_step + column;
  kernels.precondition(state.by, first, state.first_step, state.second + row * state.second_step + column,
                       state.second_step, workspace.panel.reserve(0), step, rows, columns);
}

int64_t piece_size(int64_t total, int64_t target, int64_t unit) {
  const int64_t pieces = std::max<int64_t>(1, (total + target / 2) / target);
  const int64_t size = (total + pieces - 1) / pieces;
  return std::max(unit, (size + unit - 1) / unit * unit);
}

}  // namespace adaptinf
