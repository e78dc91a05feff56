// Where the gradients come from. A parameter's entries have a scalar side and a vector side: the one whose numbers are
// broadcast and the one along which vectors run. Rows and columns usually; columns and rows where that is `transposed`.
#pragma once

#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "../xorts/codes.h"
#include "kernels.h"

namespace adaptinf {

// Memory for vectors, not cleared.
class Floats {
 public:
  // At least `count` floats; what was there is lost where it grows.
  float* reserve(int64_t count) {
    if (count > size_) {
      memory_.reset(static_cast<float*>(::operator new(static_cast<size_t>(count) * sizeof(float), kAlignment)));
      size_ = count;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0;
};

// What a thread needs to form gradients.
struct Workspace {
  Floats scalars, vectors, panel, wide;
};

// Columns of one sample's gradient.
struct Panel {
  const float* values;
  int64_t step;
};

class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t samples() const = 0;
  // A sample without tokens has no gradient: nothing is added for it.
  virtual bool is_empty(int64_t sample) const = 0;
  // Before panels of rows `first` to `first + rows` of the scalar side.
  virtual void prepare(int64_t sample, int64_t first, int64_t rows, Workspace& workspace) const = 0;
  // How many columns a panel of so many rows has, a multiple of kPanel.
  virtual int64_t panel_columns(int64_t rows) const = 0;
  // Columns `column` on of the vector side, of the rows that were prepared. With `writable` it is in the workspace.
  virtual Panel panel(int64_t sample, int64_t first, int64_t rows, int64_t column, int64_t columns, bool writable,
                      Workspace& workspace) const = 0;
};

// A matrix [rows, columns] of float32, float16 or bfloat16 whose rows may be apart.
struct Matrix {
  const char* data;
  int64_t rows, columns, step;
  DType dtype;

  explicit Matrix(const TensorView& view);
  Matrix(const float* values, int64_t rows_, int64_t columns_, int64_t step_);
  const void* at(int64_t row, int64_t column) const;
  const float* floats(int64_t row, int64_t column) const { return static_cast<const float*>(at(row, column)); }
};

// Sample b: sum over tokens t of its segment of scalars[t, i] * vectors[t, j] (* factors[j]).
class Products : public Source {
 public:
  Products(const Kernels& kernels, Matrix scalars, Matrix vectors, const std::vector<int64_t>& bounds,
           const float* factors = nullptr);
  int64_t samples() const override;
  bool is_empty(int64_t sample) const override;
  void prepare(int64_t sample, int64_t first, int64_t rows, Workspace& workspace) const override;
  int64_t panel_columns(int64_t rows) const override;
  Panel panel(int64_t sample, int64_t first, int64_t rows, int64_t column, int64_t columns, bool writable,
              Workspace& workspace) const override;

 private:
  const Kernels& kernels_;
  Matrix scalars_, vectors_;
  const std::vector<int64_t>& bounds_;
  const float* factors_;
};

// Sample b: row b of a matrix, seen as [rows, columns].
class Given : public Source {
 public:
  Given(const Kernels& kernels, Matrix gradients, int64_t columns, const std::vector<bool>& empty);
  int64_t samples() const override;
  bool is_empty(int64_t sample) const override;
  void prepare(int64_t sample, int64_t first, int64_t rows, Workspace& workspace) const override;
  int64_t panel_columns(int64_t rows) const override;
  Panel panel(int64_t sample, int64_t first, int64_t rows, int64_t column, int64_t columns, bool writable,
              Workspace& workspace) const override;

 private:
  const Kernels& kernels_;
  Matrix gradients_;
  int64_t columns_;
  const std::vector<bool>& empty_;
};

// State of the optimiser, as the source's scalar and vector sides have it.
struct State {
  Preconditioner by;
  const float *first = nullptr, *second = nullptr;
  int64_t first_step = 0, second_step = 0;
};

// What a parameter's random matrix is made from: a key of Philox, or for xorts the codes of its rows and columns.
struct Key {
  PhiloxKey philox;
  Codes rows, columns;
};

// One parameter: its gradients, and the matrix that sketches them.
struct Part {
  const Source* source;
  int64_t rows, columns;  // of the parameter
  bool transposed;        // the source's scalar side are columns
  Key key;
  State state;
};

// Where the results go.
struct Output {
  float* sketch;  // [samples][k], rows `step` apart; entries +-1
  int64_t step;
  float* squared_norms;  // [samples] or null
};

// The gradient in the workspace's panel, of those rows and columns, becomes the direction.
void precondition_panel(const State& state, Workspace& workspace, int64_t step, int64_t row, int64_t rows, int64_t column,
                        int64_t columns, const Kernels& kernels);

// sums [columns] += rows `first` to `last` of values (* factors), in float64 and in that order.
void add_tokens(const Matrix& values, const std::optional<Matrix>& factors, int64_t first, int64_t last, double* sums,
                Workspace& workspace, const Kernels& kernels);

// Cuts `total` into pieces of about `target`, multiples of `unit` but for the last.
int64_t piece_size(int64_t total, int64_t target, int64_t unit);

}  // namespace adaptinf
