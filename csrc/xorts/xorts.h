// XOR TensorSketches of gradients; the definition is that of kernels/adaptinf_kernels/sketch. Entries are +-1.
//
// Entry (r, c) of a weight goes to bucket h(r) XOR h'(c). Two ways to the same sums: `sketch_xorts` forms the gradient in
// panels and moves every entry; `transform_xorts` multiplies the two sides in the Walsh-Hadamard domain, token by token.
#pragma once

#include <vector>

#include "../grad_sketch/source.h"
#include "codes.h"

namespace adaptinf {

// Entries moved to their buckets, out [k]; sums of few terms are added to `out` time and again, for rounding's sake.
class XortsSum {
 public:
  XortsSum(int64_t k, float* out);
  // Rows `row` on of the scalar side and columns `column` on of the vector side.
  void add(const Panel& panel, const Codes& scalars, int64_t row, int64_t rows, const Codes& vectors, int64_t column,
           int64_t columns);
  // To be called once, after the last.
  void flush();

 private:
  float* const out_;
  std::vector<float> part_;  // [k]
  int64_t terms_ = 0;        // in `part_`
};

// sketch = sum over the parts.
void sketch_xorts(const std::vector<Part>& parts, int64_t k, const Output& output, const Kernels& kernels, int threads);

// The squared norms alone.
void squared_norms(const Part& part, const Output& output, const Kernels& kernels, int threads);

// The sketch of one weight, of gradients G_b^T X_b; no squared norms.
void transform_xorts(const Matrix& grad_out, const Codes& rows, const Matrix& x, const Codes& columns,
                     const std::vector<int64_t>& bounds, const Output& output, CpuLevel level, int threads);

// Whether the transform costs less, for any number of tokens.
bool transform_is_cheaper(int64_t rows, int64_t columns, int64_t k, int64_t repetitions);

}  // namespace adaptinf
