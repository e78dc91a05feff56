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
    std::transform(sums.begin(), sums.end(), gradients + sample * columns,
                   [](double sum) { return static_cast<float>(sum); });
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

}  // namespace adaptinf
