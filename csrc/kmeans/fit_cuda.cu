// Launches of a fit: one for all iterations where each problem has a block to itself, else a group of them an iteration.
#include "fit_cuda.h"

#include <algorithm>
#include <string>

#include "assign.cuh"
#include "launches.cuh"
#include "lloyd.cuh"

namespace adaptinf::kmeans::cuda {
namespace {

// ---- the phases, each by the blocks of a team

// Runs in each iteration of a problem that is not done.
struct Iterates {
  static constexpr int kBlocksAtOnce = 2;
  static __device__ bool skips(const State& s, int64_t number) { return s.work.done[number] != 0; }
};

struct Screen : Iterates {
  static constexpr int kBlocksAtOnce = 3;
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char* shared) {
    if (t.block == 0) take_back(s, p);
    for (int64_t tile = t.block; tile * kTileRows < p.rows; tile += t.blocks) screen_tile(s, p, tile, Relabel{}, shared);
  }
};

struct Score : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char* shared) {
    const int64_t count = s.work.undecided_count[p.number];
    for (int64_t tile = t.block; tile * kTileRows < count; tile += t.blocks) score_tile(s, p, count, tile, Relabel{}, shared);
  }
};

struct Inertia : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char*) {
    measure_distances(s, p, t, true, false);
  }
};

struct Conclude : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team&, unsigned char*) { conclude(s, p); }
};

struct DistancesWhereVacant : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char*) {
    if (s.work.vacant[p.number] != 0) measure_distances(s, p, t, false, false);
  }
};

struct Refill : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team&, unsigned char* shared) {
    if (s.work.vacant[p.number] != 0) refill(s, p, shared);
  }
};

struct Update : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char*) { update_clusters(s, p, t); }
};

struct Finish : Once {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char*) {
    measure_distances(s, p, t, true, true);
  }
};

__device__ void assign_alone(const State& s, int64_t number) {
  run_alone<Screen>(s, number);
  if (!s.fit.fast) run_alone<Score>(s, number);
  if (s.fit.by_inertia) run_alone<Inertia>(s, number);
  run_alone<Conclude>(s, number);
}

struct Alone : Once {
  static __device__ void run(const State& s, const Problem& p, const Team&, unsigned char*) {
    run_alone<MeasureRows>(s, p.number);
    run_alone<Pack>(s, p.number);
    assign_alone(s, p.number);
    while (s.work.done[p.number] == 0) {
      run_alone<DistancesWhereVacant>(s, p.number);
      run_alone<Refill>(s, p.number);
      run_alone<Update>(s, p.number);
      assign_alone(s, p.number);
    }
    run_alone<Finish>(s, p.number);
  }
};

// ---- the host's side

void assign(const Launches<State>& launch, const CudaFit& fit, int64_t shared) {
  launch.rows<Screen>(shared);
  if (!fit.fast) launch.rows<Score>(shared);
  if (fit.by_inertia) launch.rows<Inertia>();
  launch.problems<Conclude>();
}

void iterate(const Launches<State>& launch, const CudaFit& fit, int64_t shared) {
  if (fit.empty != EmptyClusters::keep) {
    launch.rows<DistancesWhereVacant>();
    launch.problems<Refill>(kWarps * sizeof(Candidate));
  }
  launch.clusters<Update>();
  assign(launch, fit, shared);
}

constexpr int64_t kFirstGroup = 16;  // iterations

// Waits for the device.
bool all_finished(const State& state, const Launcher& launch) {
  int64_t finished = 0;
  const cudaError_t code =
      cudaMemcpyAsync(&finished, state.work.finished, sizeof(finished), cudaMemcpyDeviceToHost, launch.stream());
  check_cuda(code, "cudaMemcpyAsync");
  check_cuda(cudaStreamSynchronize(launch.stream()), "an iteration");
  return finished == state.fit.problems;
}

}  // namespace
}  // namespace adaptinf::kmeans::cuda

namespace adaptinf::kmeans {

using namespace cuda;

int64_t cuda_fit_workspace(const CudaFit& fit) {
  int64_t cleared = 0, bytes = 0;
  place(fit, nullptr, cleared, bytes);
  return bytes;
}

void fit_cuda(const CudaFit& fit, void* workspace, int64_t workspace_bytes, int64_t device, uint64_t stream_handle) {
  if (fit.problems == 0) return;
  int64_t cleared = 0, bytes = 0;
  const State state = place(fit, workspace, cleared, bytes);
  if (workspace_bytes < bytes)
    fail("workspace: has " + std::to_string(workspace_bytes) + " bytes, needs " + std::to_string(bytes));
  const DeviceGuard guard(device);
  const Launcher launcher(device, stream_handle);
  const cudaStream_t stream = launcher.stream();
  const auto fill = [&](void* to, int value, int64_t count, int64_t size) {
    check_cuda(cudaMemsetAsync(to, value, static_cast<size_t>(count * size), stream), "cudaMemsetAsync");
  };
  fill(workspace, 0, cleared, 1);
  fill(fit.labels, -1, fit.n, sizeof(int64_t));  // no row has been added to a sum
  fill(fit.n_iter, -1, fit.problems, sizeof(int64_t));
  fill(fit.sums, 0, fit.clusters * fit.columns, sizeof(int64_t));
  fill(fit.sizes, 0, fit.clusters, sizeof(int64_t));
  fill(fit.cluster_weights, 0, fit.clusters, sizeof(int64_t));
  fill(fit.radii, 0, fit.clusters, sizeof(double));
  fill(fit.inertia, 0, fit.problems, sizeof(int64_t));
  copy_bounds(state, fit, launcher);
  const Launches launch(state, fit, launcher);
  const int64_t shared = std::max<int64_t>(screen_shared_bytes(state.padded), kWarps * sizeof(Candidate));
  if (fit.alone) return launch.problems<Alone>(shared);
  launch.rows<MeasureRows>();
  launch.rows<Pack>();
  assign(launch, fit, shared);
  // What is launched beyond a problem's last iteration does nothing. Groups that double keep both small: the launches in vain
  // (no more than those before, or a first group) and the waits (a logarithm of the iterations). Nothing has to be recorded
  // in a graph for this, whose launches would still be ahead of what the device knows.
  for (int64_t iteration = 0, group = kFirstGroup; iteration < fit.max_iter; group *= 2) {
    for (int64_t i = 0; i < group && iteration < fit.max_iter; ++i, ++iteration) iterate(launch, fit, shared);
    if (iteration < fit.max_iter && all_finished(state, launcher)) break;
  }
  launch.rows<Finish>();
}

}  // namespace adaptinf::kmeans
