// What the drivers of k-means read: a fit, and how many nearest clusters are asked for.
#pragma once

#include "driver.h"
#include "kmeans/fit_cuda.h"

struct FitInput {
  adaptinf::kmeans::CudaFit fit;
  int64_t m;
};

// All of it stays in memory until the program ends.
inline FitInput read_fit(std::FILE* in) {
  using adaptinf::DType;
  using cuda_shim::Buffer;
  const Buffer<int64_t> numbers(16, in);
  const int64_t* number = numbers.data;
  FitInput input{};
  adaptinf::kmeans::CudaFit& fit = input.fit;
  fit.dtype = static_cast<DType>(*number++);
  fit.n = *number++;
  fit.columns = *number++;
  fit.row_stride = *number++;
  fit.problems = *number++;
  fit.clusters = *number++;
  fit.max_iter = *number++;
  fit.empty = static_cast<adaptinf::kmeans::EmptyClusters>(*number++);
  fit.by_inertia = *number++ != 0;
  fit.spherical = *number++ != 0;
  fit.fast = *number++ != 0;
  fit.alone = *number++ != 0;
  const bool weighted = *number++ != 0;
  input.m = *number++;
  const int64_t size = fit.dtype == DType::float32 ? 4 : 2;
  const int64_t elements = fit.n == 0 ? 0 : (fit.n - 1) * fit.row_stride + fit.columns;
  fit.rows = Buffer<char>(elements * size, in).data;
  fit.weights = weighted ? Buffer<double>(fit.n, in).data : nullptr;
  fit.cu_rows = Buffer<int64_t>(fit.problems + 1, in).data;
  fit.cu_clusters = Buffer<int64_t>(fit.problems + 1, in).data;
  fit.origin = Buffer<double>(fit.problems * fit.columns, in).data;
  for (const double** part : {&fit.sum_scale, &fit.weight_scale, &fit.inertia_scale, &fit.rounding, &fit.threshold})
    *part = Buffer<double>(fit.problems, in).data;
  fit.centroids = Buffer<float>(fit.clusters * fit.columns, in).data;
  return input;
}
