// Launches of what is asked of rows without a screen.
#include "rows_cuda.h"

#include "distances.cuh"
#include "launches.cuh"
#include "scan.cuh"

namespace adaptinf::kmeans::cuda {
namespace {

struct FindExtremes : Once {
  static __device__ void run(const ScanState& s, const Problem& p, const Team& t, unsigned char*) { find_extremes(s, p, t); }
};

struct AddColumns : Once {
  static __device__ void run(const ScanState& s, const Problem& p, const Team& t, unsigned char*) { add_columns(s, p, t); }
};

struct AddSquares : Once {
  static __device__ void run(const ScanState& s, const Problem& p, const Team& t, unsigned char*) { add_squares(s, p, t); }
};

struct MeasureAll : Once {
  static __device__ void run(const DistancesState& s, const Problem& p, const Team& t, unsigned char* shared) {
    measure_all(s, p, t, shared);
  }
};

State rows_alone(const CudaFit& fit, int64_t* bounds) {
  State state{fit, {}, 0};
  state.fit.cu_rows = state.fit.cu_clusters = bounds;  // no phase here asks for clusters
  return state;
}

template <class Phase, class S>
void launch_on_rows(const S& state, const CudaFit& fit, int64_t rows_of_block, int64_t shared, int64_t device,
                    uint64_t stream) {
  if (fit.n == 0) return;
  const DeviceGuard guard(device);
  const Launcher launcher(device, stream);
  copy_bounds(state, fit, launcher);
  Launches(state, fit, launcher).template rows<Phase>(shared, rows_of_block);
}

}  // namespace
}  // namespace adaptinf::kmeans::cuda

namespace adaptinf::kmeans {

using namespace cuda;

void extremes_cuda(const CudaFit& fit, int64_t* bounds, double* low, double* high, int64_t* bad, int64_t device,
                   uint64_t stream) {
  const ScanState state{rows_alone(fit, bounds), low, high, bad, nullptr, nullptr};
  launch_on_rows<FindExtremes>(state, fit, kScanRows, 0, device, stream);
}

void column_sums_cuda(const CudaFit& fit, int64_t* bounds, const double* scale, int64_t* sums, int64_t device,
                      uint64_t stream) {
  const ScanState state{rows_alone(fit, bounds), nullptr, nullptr, nullptr, sums, scale};
  launch_on_rows<AddColumns>(state, fit, kScanRows, 0, device, stream);
}

void square_sums_cuda(const CudaFit& fit, int64_t* bounds, const double* scale, int64_t* sums, int64_t device,
                      uint64_t stream) {
  const ScanState state{rows_alone(fit, bounds), nullptr, nullptr, nullptr, sums, scale};
  launch_on_rows<AddSquares>(state, fit, kScanRows, 0, device, stream);
}

void distances_cuda(const CudaFit& fit, int64_t* bounds, const double* centroids, int64_t clusters, const double* limit,
                    double* found, int64_t device, uint64_t stream) {
  if (clusters == 0) return;
  const DistancesState state{rows_alone(fit, bounds), centroids, clusters, limit, found};
  launch_on_rows<MeasureAll>(state, fit, kTile, sizeof(DistancesShared), device, stream);
}

}  // namespace adaptinf::kmeans
