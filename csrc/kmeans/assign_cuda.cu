// Launches of an assignment: rows and clusters are packed, screened on the tensor cores, and decided.
#include "assign_cuda.h"

#include "launches.cuh"
#include "nearest.cuh"

namespace adaptinf::kmeans::cuda {
namespace {

struct ScreenRows : Once {
  static constexpr int kBlocksAtOnce = 3;
  static __device__ void run(const AssignState& s, const Problem& p, const Team& t, unsigned char* shared) {
    for (int64_t tile = t.block; tile * kTileRows < p.rows; tile += t.blocks) screen_tile(s, p, tile, Store{}, shared);
  }
};

struct ScoreUndecided : Once {
  static __device__ void run(const AssignState& s, const Problem& p, const Team& t, unsigned char* shared) {
    const int64_t count = s.work.undecided_count[p.number];
    for (int64_t tile = t.block; tile * kTileRows < count; tile += t.blocks) score_tile(s, p, count, tile, Store{}, shared);
  }
};

struct BoundRows : Once {
  static __device__ void run(const AssignState& s, const Problem& p, const Team& t, unsigned char* shared) {
    for (int64_t tile = t.block; tile * kTileRows < p.rows; tile += t.blocks) bound_tile(s, p, tile, shared);
  }
};

struct RankRows : Once {
  static __device__ void run(const AssignState& s, const Problem& p, const Team& t, unsigned char* shared) {
    for (int64_t tile = t.block; tile * kTileRows < p.rows; tile += t.blocks) rank_tile(s, p, tile, shared);
  }
};

struct MeasureFound : Once {
  static __device__ void run(const AssignState& s, const Problem& p, const Team& t, unsigned char*) {
    measure_found(s, p, t);
  }
};

// The state, and the bytes of its workspace; the first `cleared` of them start as zeros.
AssignState lay_out(const CudaAssign& call, void* base, int64_t& cleared, int64_t& bytes) {
  CudaFit fit = call.fit;
  fit.fast = fit.fast && call.m == 1;  // further ones need bounds
  fit.labels = call.ids;
  return {place(fit, base, cleared, bytes), call.m, call.ids, call.distances};
}

}  // namespace
}  // namespace adaptinf::kmeans::cuda

namespace adaptinf::kmeans {

using namespace cuda;

int64_t cuda_assign_workspace(const CudaAssign& call) {
  int64_t cleared = 0, bytes = 0;
  lay_out(call, nullptr, cleared, bytes);
  return bytes;
}

void assign_cuda(const CudaAssign& call, void* workspace, int64_t device, uint64_t stream) {
  if (call.fit.n == 0) return;
  int64_t cleared = 0, bytes = 0;
  const AssignState state = lay_out(call, workspace, cleared, bytes);
  const DeviceGuard guard(device);
  const Launcher launcher(device, stream);
  check_cuda(cudaMemsetAsync(workspace, 0, static_cast<size_t>(cleared), launcher.stream()), "cudaMemsetAsync");
  copy_bounds(state, call.fit, launcher);
  const Launches launch(state, call.fit, launcher);
  const int64_t shared = screen_shared_bytes(state.padded);
  launch.rows<MeasureRows>();
  launch.rows<Pack>();
  if (call.m == 1) {
    launch.rows<ScreenRows>(shared);
    if (!state.fit.fast) launch.rows<ScoreUndecided>(shared);
  } else {
    launch.rows<BoundRows>(shared);
    launch.rows<RankRows>(shared);
  }
  launch.rows<MeasureFound>();
}

}  // namespace adaptinf::kmeans
