// What k-means asks of rows alone, and their distances from a few or all clusters, on a CUDA device.
#pragma once

#include "fit_cuda.h"

namespace adaptinf::kmeans {

// On the stream of that handle; all return before the device has finished. Of `fit` count the rows, the problems with
// cu_rows, and where they are named origin and spherical. `bounds` is device memory for a copy of cu_rows.

// low and high [problems, columns] hold +inf and -inf, bad [problems] -1 before.
void extremes_cuda(const CudaFit& fit, int64_t* bounds, double* low, double* high, int64_t* bad, int64_t device,
                   uint64_t stream);

// Of rint(x_it scale); sums [problems, columns] hold zeros before.
void column_sums_cuda(const CudaFit& fit, int64_t* bounds, const double* scale, int64_t* sums, int64_t device,
                      uint64_t stream);

// Of rint(lane8(y_i^2) scale), by origin and spherical; sums [problems] hold zeros before.
void square_sums_cuda(const CudaFit& fit, int64_t* bounds, const double* scale, int64_t* sums, int64_t device,
                      uint64_t stream);

// Of one problem's rows from `clusters` centroids in float64, by origin and spherical: found [n, clusters]; at most
// limit [n] where that is not null.
void distances_cuda(const CudaFit& fit, int64_t* bounds, const double* centroids, int64_t clusters, const double* limit,
                    double* found, int64_t device, uint64_t stream);

}  // namespace adaptinf::kmeans
