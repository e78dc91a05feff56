// The inner loops of the gradient sketches, once per instruction set. All work on one thread and on memory that is theirs.
#pragma once

#include <cstdint>

#include "../common/cpu_features.h"
#include "../common/tensor_view.h"
#include "../sketch/philox.h"

namespace adaptinf {

constexpr int64_t kPanel = 32;     // columns that are taken together: one word of signs
constexpr int64_t kTokens = 256;   // terms summed in registers before they are added to memory
constexpr int64_t kVectorPad = 16; // floats that a vector may reach beyond a row of an accumulator

enum class Form { none, diagonal, less, adam };

// See kernels/adaptinf_kernels/sketch/preconditioner.py. The correction of `adam` is 1 / (1 - beta^n).
struct Preconditioner {
  Form form = Form::none;
  float beta1 = 0, rest1 = 0, beta2 = 0, rest2 = 0, eps = 0, correction1 = 1, correction2 = 1;
};

// Turns of one tile: how far its entries are moved along the scalar and the vector side.
struct Turn {
  int32_t scalar, vector;
};

// A run of neighbouring rows of a panel that lie in one row of tiles, `local` is the first one's place in the tile.
struct Run {
  int64_t first, last, local;
};

// Where a panel of values goes: accumulators [slices][tile_scalar][tile_vector + kVectorPad].
struct SjltPanel {
  const float* values;      // row i, column j at values[i * step + j]
  int64_t step, rows;
  int64_t column, columns;  // the first one's id, and how many there are
  const uint32_t* signs;    // slice t, row i, column j: bit j mod 32 of signs[t * sign_slice + j div 32 * rows + i]
  int64_t sign_slice;
  const Run* runs;
  int64_t n_runs;
  const Turn* turns;        // slice t, run u, tile v at turns[(t * n_runs + u) * n_tiles + v - first_tile]
  int64_t first_tile, n_tiles;
  int64_t slices, tile_scalar, tile_vector;
};

struct Kernels {
  int64_t max_rows;  // rows of the largest register tile

  // target [rows][width] = source [rows, columns] as float32, zeros from `columns` to `width`. Strides in elements.
  void (*widen)(const void* source, DType dtype, int64_t step, int64_t rows, int64_t columns, float* target, int64_t width);

  // target [terms][rows] = source [terms, rows]; rows <= max_rows.
  void (*pack)(const float* source, int64_t step, int64_t terms, int64_t rows, float* target);

  // out [rows][kPanel] (+)= sum_t scalars[t * rows + i] * vectors[t * step + j]; rows <= max_rows.
  void (*multiply)(const float* scalars, int64_t rows, const float* vectors, int64_t step, int64_t terms, float* out,
                   bool add);

  // out [rows][width] = sum_c matrix[i * step + c] * weights[c * width + j]; width is a multiple of kVectorPad.
  void (*row_products)(const float* matrix, int64_t step, int64_t rows, int64_t terms, const float* weights, int64_t width,
                       float* out);

  // values [rows, columns] of the gradient, overwritten by the direction.
  void (*precondition)(const Preconditioner& by, const float* first, int64_t first_step, const float* second,
                       int64_t second_step, float* values, int64_t step, int64_t rows, int64_t columns);

  // values [rows][kPanel] *= factors [kPanel] along each row.
  void (*scale)(const float* factors, float* values, int64_t rows);

  double (*squared_norm)(const float* values, int64_t step, int64_t rows, int64_t columns);

  void (*sjlt)(const SjltPanel& panel, float* accumulators);

  // out [4 * blocks][rows]: words of Philox at counters (first_block + block, row id, domain).
  void (*sign_words)(PhiloxKey key, uint32_t domain, const uint32_t* row_ids, int64_t rows, uint64_t first_block,
                     int64_t blocks, uint32_t* out);

  // out [count]: words 0 and 1 at counters (first + i, word2, word3), one after the other.
  void (*turn_words)(PhiloxKey key, uint64_t first, uint32_t word2, uint32_t word3, int64_t count, uint32_t (*out)[2]);

  // out [32][kPanel]: row j is +-1 after bit j of each of the words [kPanel].
  void (*sign_panel)(const uint32_t* words, float* out);

  // sums [columns] += sum_t values[t, c] (* factors[t, c]); strides in elements.
  void (*column_sums)(const float* values, const float* factors, int64_t rows, int64_t columns, double* sums);
};

const Kernels& kernels(CpuLevel level);

}  // namespace adaptinf
