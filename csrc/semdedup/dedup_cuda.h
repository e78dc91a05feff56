// Near-duplicates inside clusters on a CUDA device; the results are those of semdedup.h, bit for bit, as
// kernels/adaptinf_kernels/semdedup/README.md defines them.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/tensor_view.h"

namespace adaptinf::semdedup {

enum class Keep : int { reference, greedy, components };

// Row rows[p] of x is in place p; the places of cluster c are bounds[c] to bounds[c + 1], in order of rank. Everything but
// bounds and thresholds is in the memory of the device.
struct CudaDedup {
  const void* x;  // [x_rows, columns], float64, float32, float16 or bfloat16, finite, `row_stride` elements apart
  DType dtype;
  int64_t x_rows, row_stride, columns;
  const int64_t* rows;          // [n]
  std::vector<int64_t> bounds;  // [clusters + 1], from 0 to n
  Keep keep;
  std::vector<double> thresholds;  // a row goes where its similarity exceeds it

  // On which the results do not depend; how much is best was not measured.
  int64_t alone_rows = 2048;  // of a cluster that a block has to itself for everything
  int64_t slice_tiles = 32;   // tiles of 64 rows before that a block of a larger one takes at a time

  // [thresholds, n] each; before is a place or -1, similarity NaN where nothing comes before
  int8_t* kept;
  int64_t* before;
  double* similarity;

  int64_t n() const { return bounds.back(); }
  int64_t clusters() const { return static_cast<int64_t>(bounds.size()) - 1; }
};

int64_t cuda_dedup_workspace(int64_t n, int64_t columns, int64_t clusters, int64_t thresholds, Keep keep);  // bytes

// On the stream of that handle; waits once for the device, to learn how many rows are no copies, and returns before it has
// finished. `workspace` is device memory of as many bytes, aligned to 256. Fails for rows that are none of x.
void dedup_cuda(const CudaDedup& call, void* workspace, int64_t device, uint64_t stream);

}  // namespace adaptinf::semdedup
