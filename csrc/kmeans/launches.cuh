// What launches on rows and clusters share: the workspace, how many blocks a phase gets, and packing.
#pragma once

#include <algorithm>

#include "../common/cuda_screen.cuh"
#include "pack.cuh"

namespace adaptinf::kmeans::cuda {

// Phases that run once.
struct Once {
  static constexpr int kBlocksAtOnce = 2;
  static __device__ bool skips(const State&, int64_t) { return false; }
};

struct MeasureRows : Once {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char*) { measure_rows(s, p, t); }
};

struct Pack : Once {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char*) {
    pack_rows(s, p, t);
    for_octets(t, p.clusters, [&](int64_t index, bool valid) { pack_cluster(s, p, p.first_cluster + index, valid); });
  }
};

// The state, and the bytes of its workspace; the first `cleared` of them start as zeros.
inline State place(const CudaFit& fit, void* base, int64_t& cleared, int64_t& bytes) {
  State state{fit, {}, (fit.columns + 15) / 16 * 16};
  Workspace& work = state.work;
  Parts parts(base);
  parts.take(work.reach, fit.problems);
  parts.take(work.bounds, fit.problems);
  parts.take(work.undecided_count, fit.problems);
  parts.take(work.move_count, fit.problems);
  parts.take(work.relabelled, fit.problems);
  parts.take(work.inertia_before, fit.problems);
  parts.take(work.vacant, fit.problems);
  parts.take(work.done, fit.problems);
  parts.take(work.finished, 1);
  cleared = parts.used();
  parts.take(work.cu_rows, fit.problems + 1);
  parts.take(work.cu_clusters, fit.problems + 1);
  parts.take(work.rows, fit.n * state.padded);
  parts.take(work.clusters, fit.clusters * state.padded);
  parts.take(work.row_error, fit.n);
  parts.take(work.row_norm, fit.n);
  parts.take(work.units, fit.spherical ? fit.n : 0);
  parts.take(work.half_squares, fit.clusters);
  parts.take(work.half_screens, fit.clusters);
  parts.take(work.shifts, fit.clusters);
  parts.take(work.candidate_below, fit.fast ? 0 : fit.n);
  parts.take(work.undecided, fit.fast ? 0 : fit.n);
  parts.take(work.moves, fit.clusters);
  bytes = parts.used();
  state.fit.cu_rows = work.cu_rows;
  state.fit.cu_clusters = work.cu_clusters;
  return state;
}

// Where the problems begin, from the host's memory to the workspace.
inline void copy_bounds(const State& state, const CudaFit& fit, const Launcher& launch) {
  const auto copy = [&](const int64_t* to, const int64_t* from) {
    const size_t count = static_cast<size_t>(fit.problems + 1) * sizeof(int64_t);
    const cudaError_t code =
        cudaMemcpyAsync(const_cast<int64_t*>(to), from, count, cudaMemcpyHostToDevice, launch.stream());
    check_cuda(code, "cudaMemcpyAsync");
  };
  copy(state.fit.cu_rows, fit.cu_rows);
  if (fit.cu_clusters != nullptr) copy(state.fit.cu_clusters, fit.cu_clusters);
}

// The most of one problem.
inline int64_t most(const int64_t* bounds, int64_t problems) {
  int64_t found = 0;
  if (bounds == nullptr) return found;
  for (int64_t b = 0; b < problems; ++b) found = std::max(found, bounds[b + 1] - bounds[b]);
  return found;
}

// Phases on rows, on clusters, and of one block a problem.
template <class S>
class Launches {
 public:
  Launches(const S& state, const CudaFit& fit, const Launcher& launch)
      : state_(state), max_rows_(most(fit.cu_rows, fit.problems)), max_clusters_(most(fit.cu_clusters, fit.problems)),
        launch_(launch) {}

  template <class Phase>
  void rows(int64_t shared = 0, int64_t rows_of_block = kTileRows) const {
    launch_.phase<Phase>(state_, (max_rows_ + rows_of_block - 1) / rows_of_block, shared);
  }
  template <class Phase>
  void clusters() const {
    launch_.phase<Phase>(state_, (max_clusters_ + kWarps * kLanes / kOctet - 1) / (kWarps * kLanes / kOctet));
  }
  template <class Phase>
  void problems(int64_t shared = 0) const {
    launch_.phase<Phase>(state_, 1, shared);
  }

 private:
  S state_;
  int64_t max_rows_, max_clusters_;
  const Launcher& launch_;
};

}  // namespace adaptinf::kmeans::cuda
