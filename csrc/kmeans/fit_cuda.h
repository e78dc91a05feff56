// Lloyd's iteration on a CUDA device; the arithmetic is that of kernels/adaptinf_kernels/kmeans/README.md, bit for bit.
#pragma once

#include <cstdint>

#include "../common/tensor_view.h"

namespace adaptinf::kmeans {

enum class EmptyClusters : int { keep, farthest, split };

// Problem b has rows cu_rows[b] to cu_rows[b + 1] and clusters cu_clusters[b] to cu_clusters[b + 1], which are in the host's
// memory; everything else is in the device's. Labels count from zero in each problem.
struct CudaFit {
  const void* rows;  // [n, columns], float16, bfloat16 or float32, finite, `row_stride` elements apart
  DType dtype;
  int64_t row_stride, columns;
  const double* weights;  // [n]; null: all 1
  const int64_t *cu_rows, *cu_clusters;
  int64_t problems, n, clusters;      // clusters of all problems
  const double* origin;               // [problems, columns]
  const double *sum_scale, *weight_scale, *inertia_scale, *rounding, *threshold;  // [problems]
  int64_t max_iter;
  EmptyClusters empty;
  bool by_inertia, spherical, fast;
  bool alone;  // each problem by one block, which runs all of its iterations: for many small problems

  float* centroids;  // [clusters, columns]: where to start, and where it ended
  int64_t* labels;   // [n]
  double* distances;  // [n]
  int64_t* sums;      // [clusters, columns]
  int64_t *sizes, *cluster_weights;  // [clusters]
  double* radii;                     // [clusters]
  int64_t *inertia, *n_iter, *changed;  // [problems]
};

int64_t cuda_fit_workspace(const CudaFit& fit);  // bytes

// On the stream of that handle; returns before the device has finished. Iterations are launched ahead in groups, 16, 32, 64,
// ...; between two of them the host waits once, to learn whether all problems are done.
// `workspace` is device memory, aligned to 256 bytes.
void fit_cuda(const CudaFit& fit, void* workspace, int64_t workspace_bytes, int64_t device, uint64_t stream);

}  // namespace adaptinf::kmeans
