// Launches of a fit: one for all iterations where each problem has a block to itself, else a group of them an iteration.
#include "fit_cuda.h"

#include <algorithm>

#include "assign.cuh"
#include "lloyd.cuh"

namespace adaptinf::kmeans::cuda {
namespace {

// ---- the phases, each by the blocks of a team

// Runs once, or in each iteration of a problem that is not done.
struct Once {
  static constexpr int kBlocksAtOnce = 2;
  static __device__ bool skips(const State&, int64_t) { return false; }
};

struct Iterates {
  static constexpr int kBlocksAtOnce = 2;
  static __device__ bool skips(const State& s, int64_t number) { return s.work.done[number] != 0; }
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

struct Screen : Iterates {
  static constexpr int kBlocksAtOnce = 3;
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char* shared) {
    if (t.block == 0) take_back(s, p);
    for (int64_t tile = t.block; tile * kTileRows < p.rows; tile += t.blocks) screen_tile(s, p, tile, shared);
  }
};

struct Score : Iterates {
  static __device__ void run(const State& s, const Problem& p, const Team& t, unsigned char* shared) {
    const int64_t count = s.work.undecided_count[p.number];
    for (int64_t tile = t.block; tile * kTileRows < count; tile += t.blocks) score_tile(s, p, count, tile, shared);
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

// The state, and the bytes of its workspace; the first `cleared` of them start as zeros.
State place(const CudaFit& fit, void* base, int64_t& cleared, int64_t& bytes) {
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

// The most of one problem.
int64_t most(const int64_t* bounds, int64_t problems) {
  int64_t found = 0;
  for (int64_t b = 0; b < problems; ++b) found = std::max(found, bounds[b + 1] - bounds[b]);
  return found;
}

// Phases on rows, on clusters, and of one block a problem.
class Launches {
 public:
  Launches(const State& state, int64_t max_rows, int64_t max_clusters, const Launcher& launch)
      : state_(state), max_rows_(max_rows), max_clusters_(max_clusters), launch_(launch) {}

  template <class Phase>
  void rows(int64_t shared = 0) const {
    launch_.phase<Phase>(state_, (max_rows_ + kTileRows - 1) / kTileRows, shared);
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
  State state_;
  int64_t max_rows_, max_clusters_;
  const Launcher& launch_;
};

void assign(const Launches& launch, const CudaFit& fit, int64_t shared) {
  launch.rows<Screen>(shared);
  if (!fit.fast) launch.rows<Score>(shared);
  if (fit.by_inertia) launch.rows<Inertia>();
  launch.problems<Conclude>();
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
  if (workspace_bytes < bytes) fail("workspace: has " + std::to_string(workspace_bytes) + " bytes, needs " + std::to_string(bytes));
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

  const auto copy = [&](int64_t* to, const int64_t* from) {
    const size_t count = static_cast<size_t>(fit.problems + 1) * sizeof(int64_t);
    check_cuda(cudaMemcpyAsync(to, from, count, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
  };
  copy(state.work.cu_rows, fit.cu_rows);
  copy(state.work.cu_clusters, fit.cu_clusters);

  const Launches launch(state, most(fit.cu_rows, fit.problems), most(fit.cu_clusters, fit.problems), launcher);
  const int64_t shared = std::max<int64_t>(screen_shared_bytes(state.padded), kWarps * sizeof(Candidate));
  if (fit.alone) return launch.problems<Alone>(shared);
  launch.rows<MeasureRows>();
  launch.rows<Pack>();
  assign(launch, fit, shared);
  for (int64_t iteration = 0; iteration < fit.max_iter; ++iteration) {
    if (fit.empty != EmptyClusters::keep) {
      launch.rows<DistancesWhereVacant>();
      launch.problems<Refill>(kWarps * sizeof(Candidate));
    }
    launch.clusters<Update>();
    assign(launch, fit, shared);
  }
  launch.rows<Finish>();
}

}  // namespace adaptinf::kmeans
