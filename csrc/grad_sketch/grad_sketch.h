// Sketches of per-sample gradients, of the kinds sjlt, rademacher and xorts; see kernels/adaptinf_kernels/sketch. Matrices
// are float32, float16 or bfloat16; sums are float32; results have entries of +-1. A sample's bits depend on nothing but
// the sample, the parameter's shape, the sketch and the instruction set.
#pragma once

#include <optional>
#include <vector>

#include "sjlt.h"

namespace adaptinf {

enum class Kind { sjlt, rademacher, xorts };

// How a call runs, and the random matrix but for a parameter's key.
struct Context {
  Kind kind;
  Sjlt sketch;  // of the other kinds: k alone
  Output output;
  CpuLevel level;
  const Kernels& kernels;
  int threads;
};

// An optimiser's state of a parameter's shape; the moments as float32, with the parameter's scalar side as rows.
class Moments {
 public:
  Moments(const Preconditioner& by, const std::optional<Matrix>& first, const std::optional<Matrix>& second, bool transposed,
          const Kernels& kernels, int threads);
  const State& state() const { return state_; }

 private:
  Floats first_, second_;
  State state_;
};

struct Preconditioning {
  Preconditioner by;
  std::optional<Matrix> first, second;
};

// Segments run from bounds[b] to bounds[b + 1].
void grad_sketch_linear(const Context& context, const Matrix& x, const Matrix& grad_out, const std::vector<int64_t>& bounds,
                        const Key& key, const Preconditioning& preconditioning);

struct Lora {
  Matrix a, b;  // [r, d_in], [d_out, r]
  double scaling;
  std::optional<Matrix> magnitude;  // [1, d_out]
  Key key_a, key_b;
  Preconditioning preconditioning_a, preconditioning_b;
};

void grad_sketch_lora(const Context& context, const Matrix& x, const Matrix& grad_out, const std::vector<int64_t>& bounds,
                      const Lora& lora);

// Sums over tokens of grad_out (* factor), as a parameter [1, d].
void grad_sketch_vector(const Context& context, const std::optional<Matrix>& factor, const Matrix& grad_out,
                        const std::vector<int64_t>& bounds, const Key& key, const Preconditioning& preconditioning);

// Row v of a sample's gradient is the sum of grad_out over its tokens of id v; that of `padding` is zero.
void grad_sketch_embedding(const Context& context, const std::vector<int64_t>& ids, const Matrix& grad_out,
                           const std::vector<int64_t>& bounds, const Key& key, int64_t padding);

// Rows of `gradients` as parameters [rows, columns].
void project(const Context& context, const Matrix& gradients, int64_t rows, int64_t columns, const Key& key);

}  // namespace adaptinf
