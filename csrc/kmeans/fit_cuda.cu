// Launches of a fit: one for all iterations where each problem has a block to itself, else a group of them an iteration.
#include "fit_cuda.h"

#include <algorithm>

#include "../common/cuda_device.h"
#include "assign.cuh"
#include "lloyd.cuh"

namespace adaptinf::kmeans::cuda {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int kBlocksPerProcessor = 8;  // more than fit at once, so that none idles at the end for long

// ---- the phases, each by the blocks of a team

// Runs once, or in each iteration of a problem that is not done. As many blocks are to fit on a multiprocessor at once as
// leave enough registers for no kernel to spill.
struct Once {
  static constexpr bool kIterates = false;
  static constexpr int kBlocksAtOnce = 2;
};

struct Iterates {
  static constexpr bool kIterates = true;
  static constexpr int kBlocksAtOnce = 2;
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

template <class Phase>
__global__ void __launch_bounds__(kThreads, Phase::kBlocksAtOnce) run_phase(const __grid_constant__ State state) {
  for (int64_t number = blockIdx.y; number < state.fit.problems; number += gridDim.y) {
    if (Phase::kIterates && state.work.done[number] != 0) continue;
    Phase::run(state, problem(state, number), {blockIdx.x, gridDim.x}, shared_bytes());
    __syncthreads();  // shared memory is the next problem's
  }
}

// A phase by the one block of a problem; what it wrote is there for the next one. Not inlined, so that each phase has the
// registers to itself.
template <class Phase>
__attribute__((noinline)) __device__ void run_alone(const State& state) {
  Phase::run(state, problem(state, blockIdx.x), {0, 1}, shared_bytes());
  __syncthreads();
}

__device__ void assign_alone(const State& state) {
  run_alone<Screen>(state);
  if (!state.fit.fast) run_alone<Score>(state);
  if (state.fit.by_inertia) run_alone<Inertia>(state);
  run_alone<Conclude>(state);
}

__global__ void __launch_bounds__(kThreads, Once::kBlocksAtOnce) fit_alone(const __grid_constant__ State state) {
  run_alone<MeasureRows>(state);
  run_alone<Pack>(state);
  assign_alone(state);
  while (state.work.done[blockIdx.x] == 0) {
    run_alone<DistancesWhereVacant>(state);
    run_alone<Refill>(state);
    run_alone<Update>(state);
    assign_alone(state);
  }
  run_alone<Finish>(state);
}

// ---- the host's side

// Parts of the workspace one after the other; with a null base only their sizes count.
class Parts {
 public:
  explicit Parts(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  void take(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(base_ + used_);
    used_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

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

class Launcher {
 public:
  Launcher(const State& state, int64_t max_rows, int64_t max_clusters, int64_t device, cudaStream_t stream)
      : state_(state), max_rows_(max_rows), max_clusters_(max_clusters), stream_(stream) {
    const int index = static_cast<int>(device);
    check_cuda(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, index), "cudaDeviceGetAttribute");
    check_cuda(cudaDeviceGetAttribute(&max_y_, cudaDevAttrMaxGridDimY, index), "cudaDeviceGetAttribute");
  }

  // Phases on rows, on clusters, and of one block a problem.
  template <class Phase>
  void rows(int64_t shared = 0) const {
    phase<Phase>((max_rows_ + kTileRows - 1) / kTileRows, shared);
  }
  template <class Phase>
  void clusters() const {
    phase<Phase>((max_clusters_ + kWarps * kLanes / kOctet - 1) / (kWarps * kLanes / kOctet), 0);
  }
  template <class Phase>
  void problems(int64_t shared = 0) const {
    phase<Phase>(1, shared);
  }
  void launch(void (*kernel)(const State), int64_t x, int64_t y, int64_t shared) const {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<size_t>(shared);
    config.stream = stream_;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
               "cudaFuncSetAttribute");
    check_cuda(cudaLaunchKernelEx(&config, kernel, state_), "launching a kernel of k-means");
  }

 private:
  template <class Phase>
  void phase(int64_t blocks, int64_t shared) const {
    const int64_t most = static_cast<int64_t>(processors_) * kBlocksPerProcessor;
    launch(run_phase<Phase>, std::max<int64_t>(1, std::min(blocks, most)), std::min<int64_t>(state_.fit.problems, max_y_), shared);
  }

  State state_;
  int64_t max_rows_, max_clusters_;
  cudaStream_t stream_;
  int processors_ = 0, max_y_ = 0;
};

void assign(const Launcher& launch, const CudaFit& fit, int64_t shared) {
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

void check_device_memory(const std::vector<std::pair<const char*, TensorView>>& views) {
  for (const auto& [name, view] : views) {
    bool empty = false;
    for (const int64_t size : view.shape) empty = empty || size == 0;
    if (empty) continue;
    const DeviceGuard guard(view.device_index);
    check_device_pointer(view, name);
  }
}

void fit_cuda(const CudaFit& fit, void* workspace, int64_t workspace_bytes, int64_t device, uint64_t stream_handle) {
  if (fit.problems == 0) return;
  int64_t cleared = 0, bytes = 0;
  const State state = place(fit, workspace, cleared, bytes);
  if (workspace_bytes < bytes) fail("workspace: has " + std::to_string(workspace_bytes) + " bytes, needs " + std::to_string(bytes));
  const DeviceGuard guard(device);
  const cudaStream_t stream = reinterpret_cast<cudaStream_t>(stream_handle);
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

  const Launcher launch(state, most(fit.cu_rows, fit.problems), most(fit.cu_clusters, fit.problems), device, stream);
  const int64_t shared = std::max<int64_t>(assign_shared_bytes(state.padded), kWarps * sizeof(Candidate));
  if (fit.alone)
    return launch.launch(fit_alone, fit.problems, 1, shared);
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
