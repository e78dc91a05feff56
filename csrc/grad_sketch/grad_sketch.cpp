#include "grad_sketch.h"

#include <algorithm>

#include "../common/parallel.h"
#include "../xorts/xorts.h"
#include "rademacher.h"

namespace adaptinf {
namespace {

constexpr int64_t kThinColumns = 64;  // a weight of at most so many columns, and more rows, has vectors along its rows
constexpr int64_t kTokenBlock = 64;

void run(const Context& context, const std::vector<Part>& parts) {
  if (context.kind == Kind::sjlt) {
    sketch_sjlt(parts, context.sketch, context.output, context.kernels, context.threads);
  } else if (context.kind == Kind::xorts) {
    sketch_xorts(parts, context.sketch.k, context.output, context.kernels, context.threads);
  } else {
    sketch_rademacher(parts, context.sketch.k, context.output, context.kernels, context.threads);
  }
}

int64_t padded(int64_t width) { return (width + kVectorPad - 1) / kVectorPad * kVectorPad; }

// [rows][padded(columns)] of float32: rows of `matrix`, or its columns where transposed.
float* widen(const Matrix& matrix, bool transposed, Floats& memory, const Kernels& kernels, int threads) {
  const int64_t width = padded(transposed ? matrix.rows : matrix.columns);
  float* const out = memory.reserve((transposed ? matrix.columns : matrix.rows) * width);
  const int64_t blocks = (matrix.rows + kTokenBlock - 1) / kTokenBlock;
  parallel_for(blocks, threads, [&](int64_t block) {
    const int64_t first = block * kTokenBlock, rows = std::min(kTokenBlock, matrix.rows - first);
    if (!transposed) {
      kernels.widen(matrix.at(first, 0), matrix.dtype, matrix.step, rows, matrix.columns, out + first * width, width);
      return;
    }
    Floats wide_memory;
    float* const wide = wide_memory.reserve(rows * matrix.columns);
    kernels.widen(matrix.at(first, 0), matrix.dtype, matrix.step, rows, matrix.columns, wide, matrix.columns);
    for (int64_t column = 0; column < matrix.columns; ++column) {
      for (int64_t row = 0; row < rows; ++row) out[column * width + first + row] = wide[row * matrix.columns + column];
      if (first + rows == matrix.rows) std::fill(out + column * width + matrix.rows, out + (column + 1) * width, 0.0f);
    }
  });
  return out;
}

// [tokens][width] = matrix weights, weights [columns of matrix][width].
float* token_products(const Matrix& matrix, const float* weights, int64_t width, Floats& memory, const Context& context) {
  float* const out = memory.reserve(matrix.rows * width);
  const int64_t blocks = (matrix.rows + kTokenBlock - 1) / kTokenBlock;
  parallel_for(blocks, context.threads, [&](int64_t block) {
    const int64_t first = block * kTokenBlock, rows = std::min(kTokenBlock, matrix.rows - first);
    Floats wide;
    const float* from = nullptr;
    int64_t step = matrix.step;
    if (matrix.dtype == DType::float32) {
      from = matrix.floats(first, 0);
    } else {
      step = matrix.columns;
      float* const target = wide.reserve(rows * step);
      context.kernels.widen(matrix.at(first, 0), matrix.dtype, matrix.step, rows, step, target, step);
      from = target;
    }
    context.kernels.row_products(from, step, rows, matrix.columns, weights, width, out + first * width);
  });
  return out;
}

// sums [d] += tokens `first` to `last` of values (* factors).
void add_tokens(const Matrix& values, const std::optional<Matrix>& factors, int64_t first, int64_t last, double* sums,
                Workspace& workspace, const Kernels& kernels) {
  constexpr int64_t kBlock = 16;
  const int64_t columns = values.columns;
  for (int64_t token = first; token < last; token += kBlock) {
    const int64_t rows = std::min(kBlock, last - token);
    float* const wide = workspace.vectors.reserve(kBlock * columns);
    kernels.widen(values.at(token, 0), values.dtype, values.step, rows, columns, wide, columns);
    float* by = nullptr;
    if (factors) {
      by = workspace.scalars.reserve(kBlock * columns);
      kernels.widen(factors->at(token, 0), factors->dtype, factors->step, rows, columns, by, columns);
    }
    kernels.column_sums(wide, by, rows, columns, sums);
  }
}

}  // namespace

Moments::Moments(const Preconditioner& by, const std::optional<Matrix>& first, const std::optional<Matrix>& second,
                 bool transposed, const Kernels& kernels, int threads) {
  state_.by = by;
  const auto set = [&](const std::optional<Matrix>& moment, Floats& memory, const float*& data, int64_t& step) {
    if (!moment) return;
    const bool copies = transposed || moment->dtype != DType::float32;
    data = copies ? widen(*moment, transposed, memory, kernels, threads) : moment->floats(0, 0);
    step = copies ? padded(transposed ? moment->rows : moment->columns) : moment->step;
  };
  set(first, first_, state_.first, state_.first_step);
  set(second, second_, state_.second, state_.second_step);
}

void grad_sketch_linear(const Context& context, const Matrix& x, const Matrix& grad_out, const std::vector<int64_t>& bounds,
                        const Key& key, const Preconditioning& preconditioning) {
  const int64_t rows = grad_out.columns, columns = x.columns;
  const bool transposed = columns <= kThinColumns && columns < rows;
  const Moments moments(preconditioning.by, preconditioning.first, preconditioning.second, transposed, context.kernels,
                        context.threads);
  const Products source(context.kernels, transposed ? x : grad_out, transposed ? grad_out : x, bounds);
  const Part part{&source, rows, columns, transposed, key, moments.state()};
  if (context.kind == Kind::xorts && transform_is_cheaper(rows, columns, context.sketch.k, key.rows.repetitions)) {
    transform_xorts(grad_out, key.rows, x, key.columns, bounds, context.output, context.level, context.threads);
    if (context.output.squared_norms != nullptr) squared_norms(part, context.output, context.kernels, context.threads);
    return;
  }
  run(context, {part});
}

// B's vectors run along its rows whatever its shape, because DoRA's magnitude does.
void grad_sketch_lora(const Context& context, const Matrix& x, const Matrix& grad_out, const std::vector<int64_t>& bounds,
                      const Lora& lora) {
  const Kernels& kernels = context.kernels;
  const int64_t rank = lora.a.rows, width = padded(rank), d_out = grad_out.columns;
  Floats memory_a, memory_b, memory_factors, memory_hidden, memory_error;
  const float* const a = widen(lora.a, true, memory_a, kernels, 1);  // [d_in][width]
  float* const b = widen(lora.b, false, memory_b, kernels, 1);       // [d_out][width]
  float* const factors = memory_factors.reserve(d_out);
  if (lora.magnitude) kernels.widen(lora.magnitude->data, lora.magnitude->dtype, 0, 1, d_out, factors, d_out);
  for (int64_t row = 0; row < d_out; ++row) {
    factors[row] = static_cast<float>(lora.scaling) * (lora.magnitude ? factors[row] : 1.0f);
    for (int64_t column = 0; column < width; ++column) b[row * width + column] *= factors[row];
  }
  const Matrix hidden(token_products(x, a, width, memory_hidden, context), x.rows, rank, width);
  const Matrix error(token_products(grad_out, b, width, memory_error, context), x.rows, rank, width);
  const Products source_a(kernels, error, x, bounds), source_b(kernels, hidden, grad_out, bounds, factors);
  const auto &pa = lora.preconditioning_a, &pb = lora.preconditioning_b;
  const Moments moments_a(pa.by, pa.first, pa.second, false, kernels, context.threads);
  const Moments moments_b(pb.by, pb.first, pb.second, true, kernels, context.threads);
  run(context, {{&source_a, rank, x.columns, false, lora.key_a, moments_a.state()},
                {&source_b, d_out, rank, true, lora.key_b, moments_b.state()}});
}

void grad_sketch_vector(const Context& context, const std::optional<Matrix>& factor, const Matrix& grad_out,
                        const std::vector<int64_t>& bounds, const Key& key, const Preconditioning& preconditioning) {
  const int64_t samples = static_cast<int64_t>(bounds.size()) - 1, columns = grad_out.columns;
  Floats memory;
  float* const gradients = memory.reserve(samples * columns);
  std::vector<bool> empty(static_cast<size_t>(samples));
  for (size_t sample = 0; sample < empty.size(); ++sample) empty[sample] = bounds[sample] == bounds[sample + 1];
  parallel_for(samples, context.threads, [&](int64_t sample) {
    Workspace workspace;
    std::vector<double> sums(static_cast<size_t>(columns), 0.0);
    add_tokens(grad_out, factor, bounds[static_cast<size_t>(sample)], bounds[static_cast<size_t>(sample) + 1], sums.data(),
               workspace, context.kernels);
    std::transform(sums.begin(), sums.end(), gradients + sample * columns, [](double sum) { return static_cast<float>(sum); });
  });
  const Moments moments(preconditioning.by, preconditioning.first, preconditioning.second, false, context.kernels,
                        context.threads);
  const Given source(context.kernels, Matrix(gradients, samples, columns, columns), columns, empty);
  run(context, {{&source, 1, columns, false, key, moments.state()}});
}

void project(const Context& context, const Matrix& gradients, int64_t rows, int64_t columns, const Key& key) {
  const std::vector<bool> none;
  const Given source(context.kernels, gradients, columns, none);
  run(context, {{&source, rows, columns, false, key, {}}});
}

namespace {

constexpr int64_t kIds = 64;             // rows of a table that are summed before they are sketched
constexpr int64_t kIdColumns = 1 << 13;

// One sample's gradient of an embedding table, sketched.
class EmbeddingSample {
 public:
  EmbeddingSample(const Context& context, const std::vector<int64_t>& ids, const Matrix& grad_out, const Key& key, float* out)
      : context_(context), ids_(ids), grad_out_(grad_out), key_(key), out_(out) {}

  // Returns the squared norm, if it is wanted.
  double run(int64_t first, int64_t last, int64_t padding) {
    std::fill_n(out_, context_.sketch.k, 0.0f);
    std::vector<int64_t> tokens;
    for (int64_t token = first; token < last; ++token)
      if (id(token) != padding) tokens.push_back(token);
    std::stable_sort(tokens.begin(), tokens.end(), [this](int64_t a, int64_t b) { return id(a) < id(b); });
    if (context_.kind == Kind::sjlt) accumulators_.assign(static_cast<size_t>(sjlt_accumulators(context_.sketch, false)), 0.0f);
    if (context_.kind == Kind::xorts) xorts_.emplace(context_.sketch.k, out_);
    double squares = 0;
    for (size_t token = 0; token < tokens.size();) {
      token = sum_rows(tokens, token);
      const int64_t rows = static_cast<int64_t>(distinct_.size());
      if (context_.output.squared_norms != nullptr)
        squares += context_.kernels.squared_norm(sums_.data(), grad_out_.columns, rows, grad_out_.columns);
      if (context_.kind == Kind::sjlt) {
        add_sjlt_rows();
      } else if (context_.kind == Kind::xorts) {
        add_xorts_rows();
      } else {
        for (int64_t row = 0; row < rows; ++row) add_dense_row(row);
      }
    }
    if (context_.kind == Kind::sjlt) add_sjlt(context_.sketch, false, accumulators_.data(), out_);
    if (xorts_) xorts_->flush();
    return squares;
  }

 private:
  int64_t id(int64_t token) const { return ids_[static_cast<size_t>(token)]; }

  // The next ids and the sums of their tokens; returns the first token that is left.
  size_t sum_rows(const std::vector<int64_t>& tokens, size_t token) {
    distinct_.clear();
    sums_.clear();
    std::vector<double> sums(static_cast<size_t>(grad_out_.columns));
    while (token < tokens.size() && distinct_.size() < kIds) {
      const int64_t row = id(tokens[token]);
      std::fill(sums.begin(), sums.end(), 0.0);
      for (; token < tokens.size() && id(tokens[token]) == row; ++token)
        add_tokens(grad_out_, {}, tokens[token], tokens[token] + 1, sums.data(), workspace_, context_.kernels);
      distinct_.push_back(static_cast<uint32_t>(row));
      sums_.insert(sums_.end(), sums.begin(), sums.end());
    }
    return token;
  }

  void add_sjlt_rows() {
    const int64_t width = grad_out_.columns;
    for (int64_t first = 0; first < width; first += kIdColumns) {
      const int64_t last = std::min(first + kIdColumns, width);
      tables_.make(context_.sketch, key_.philox, false, distinct_, first, last - first, context_.kernels);
      for (int64_t column = first; column < last; column += kPanel) {
        SjltPanel panel = tables_.panel(column, std::min(kPanel, last - column));
        panel.values = sums_.data() + column;
        panel.step = width;
        context_.kernels.sjlt(panel, accumulators_.data());
      }
    }
  }

  void add_xorts_rows() {
    const int64_t width = grad_out_.columns;
    for (size_t row = 0; row < distinct_.size(); ++row)
      xorts_->add({sums_.data() + static_cast<int64_t>(row) * width, width}, key_.rows, distinct_[row], 1, key_.columns, 0, width);
  }

  void add_dense_row(int64_t row) {
    const int64_t width = grad_out_.columns, k = context_.sketch.k;
    SampleTiles tile(1, width, context_.kernels);
    std::copy_n(sums_.data() + row * width, width, tile.column(0).to);
    const uint64_t first = static_cast<uint64_t>(distinct_[static_cast<size_t>(row)]) * static_cast<uint64_t>(width);
    for (int64_t number = 0; number < k; number += kPanel) {
      const int64_t count = std::min(kPanel, k - number);
      float sums[kPanel] = {};
      std::copy_n(out_ + number, count, sums);
      signs_.add(key_.philox, number, first, width, tile, sums, context_.kernels);
      std::copy_n(sums, count, out_ + number);
    }
  }

  const Context& context_;
  const std::vector<int64_t>& ids_;
  const Matrix& grad_out_;
  const Key& key_;
  float* const out_;
  Workspace workspace_;
  SjltTables tables_;
  SignRows signs_;
  std::vector<uint32_t> distinct_;
  std::optional<XortsSum> xorts_;
  std::vector<float> sums_, accumulators_;
};

}  // namespace

void grad_sketch_embedding(const Context& context, const std::vector<int64_t>& ids, const Matrix& grad_out,
                           const std::vector<int64_t>& bounds, const Key& key, int64_t padding) {
  const Output& output = context.output;
  parallel_for(static_cast<int64_t>(bounds.size()) - 1, context.threads, [&](int64_t sample) {
    const int64_t first = bounds[static_cast<size_t>(sample)], last = bounds[static_cast<size_t>(sample) + 1];
    EmbeddingSample one(context, ids, grad_out, key, output.sketch + sample * output.step);
    const double squares = one.run(first, last, padding);
    if (output.squared_norms != nullptr) output.squared_norms[sample] = static_cast<float>(squares);
  });
}

}  // namespace adaptinf
