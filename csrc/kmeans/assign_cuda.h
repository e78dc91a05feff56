// The nearest clusters of rows on a CUDA device, for clusters that stay as they are.
#pragma once

#include "fit_cuda.h"

namespace adaptinf::kmeans {

struct CudaAssign {
  // Rows, problems, centroids, origin, spherical and fast; nothing else of it counts.
  CudaFit fit;
  int64_t m;        // at most as many as a problem that has rows has clusters
  int64_t* ids;     // [n, m], best score first, ties to the lower id
  double* distances;  // [n, m]
};

int64_t cuda_assign_workspace(const CudaAssign& call);  // bytes

// On the stream of that handle; returns before the device has finished. `workspace` is device memory of as many bytes,
// aligned to 256.
void assign_cuda(const CudaAssign& call, void* workspace, int64_t device, uint64_t stream);

}  // namespace adaptinf::kmeans
