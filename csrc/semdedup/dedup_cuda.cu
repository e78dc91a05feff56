// Launches of a de-duplication: small clusters have a block each for everything, large ones a group of launches.
#include "dedup_cuda.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "copies.cuh"
#include "greedy.cuh"

namespace adaptinf::semdedup::cuda {
namespace {

// ---- the phases, each by the blocks of a team

struct Phase {
  static constexpr int kBlocksAtOnce = 2;
  static __device__ bool skips(const State&, int64_t) { return false; }
};

struct Measure : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { measure(s, c, t); }
};

struct FindCopies : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { find_copies(s, c, t); }
};

struct NumberRows : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team&, unsigned char* shared) {
    number_rows(s, c, shared);
  }
};

struct FindCenter : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { find_center(s, c, t); }
};

struct RoundRows : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { round_rows(s, c, t); }
};

struct Clear : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { clear_search(s, c, t); }
};

template <bool kJoins>
struct Search : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char* shared) {
    search<kJoins>(s, c, t, shared);
  }
};

struct DecideBlock : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team&, unsigned char* shared) {
    decide_block(s, c, shared);
  }
};

struct ShowBlock : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char* shared) {
    show_block(s, c, t, shared);
  }
};

struct Settle : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { settle(s, c, t); }
};

struct Score : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char* shared) {
    if (s.keep == Keep::greedy) score(s, c, kept_rows(s, c), t, shared);
    else score(s, c, Everyone{distinct_of(s, c)}, t, shared);
  }
};

struct JoinSlices : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { join_slices(s, c, t); }
};

struct Spread : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team& t, unsigned char*) { spread(s, c, t); }
};

struct PrepareAlone : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team&, unsigned char*) {
    run_alone<Measure>(s, c.problem);
    run_alone<FindCopies>(s, c.problem);
    run_alone<NumberRows>(s, c.problem);
    run_alone<FindCenter>(s, c.problem);
    run_alone<RoundRows>(s, c.problem);
  }
};

struct SolveAlone : Phase {
  static __device__ void run(const State& s, const Cluster& c, const Team&, unsigned char*) {
    run_alone<Clear>(s, c.problem);
    if (s.keep == Keep::reference) run_alone<Search<false>>(s, c.problem);
    if (s.keep == Keep::components) run_alone<Search<true>>(s, c.problem);
    while (s.keep == Keep::greedy && s.work.decided[c.number] < distinct_of(s, c)) {
      run_alone<DecideBlock>(s, c.problem);
      run_alone<ShowBlock>(s, c.problem);
    }
    run_alone<Settle>(s, c.problem);
    run_alone<Score>(s, c.problem);
    run_alone<JoinSlices>(s, c.problem);
  }
};

// ---- the host's side

int64_t padded(int64_t columns) { return (columns + 15) / 16 * 16; }

// The parts of a workspace, and their bytes.
Workspace place(int64_t n, int64_t columns, int64_t clusters, int64_t results, Keep keep, void* base, int64_t& bytes) {
  Workspace work{};
  Parts parts(base);
  parts.take(work.bounds, clusters + 1);
  parts.take(work.order, clusters);
  parts.take(work.thresholds, results);
  parts.take(work.bad, 1);
  parts.take(work.distinct, clusters);
  parts.take(work.scalings, n);
  parts.take(work.hashes, n);
  parts.take(work.slots, 2 * n);
  for (int** part : {&work.kind, &work.original, &work.number_of, &work.place_of, &work.undecided}) parts.take(*part, n);
  parts.take(work.centers, clusters * columns);
  parts.take(work.rounded, n * padded(columns));
  parts.take(work.residuals, n);
  parts.take(work.extents, clusters);
  parts.take(work.bias, n);
  parts.take(work.best, n);
  parts.take(work.second, n);
  parts.take(work.candidate_below, n);
  parts.take(work.undecided_count, clusters);
  parts.take(work.parts, n);
  parts.take(work.nearest, n);
  const bool greedy = keep == Keep::greedy;
  for (int** part : {&work.gone, &work.kept_rows}) parts.take(*part, greedy ? n : 0);
  for (int** part : {&work.kept_count, &work.kept_before, &work.decided}) parts.take(*part, greedy ? clusters : 0);
  parts.take(work.parents, keep == Keep::components ? results * n : 0);
  bytes = parts.used();
  return work;
}

int64_t tasks(int64_t count, int64_t per_block) { return (count + per_block - 1) / per_block; }

// Clusters of about one size: numbers `first` on in the order of clusters, of at most so many places or distinct rows each.
struct Group {
  int64_t first, count, most;
  bool alone;
};

class Launches {
 public:
  Launches(const State& state, const Launcher& launch) : state_(state), launch_(launch) {}

  void prepare(const Group& group) {
    const State state = of(group);
    constexpr int64_t kOctets = kThreads / kOctet;
    if (group.alone) return launch_.phase<PrepareAlone>(state, 1, kShared);
    launch_.phase<Measure>(state, tasks(group.most, kOctets));
    launch_.phase<FindCopies>(state, tasks(group.most, kWarps));
    launch_.phase<NumberRows>(state, 1, kShared);
    launch_.phase<FindCenter>(state, tasks(state.columns, kThreads));
    launch_.phase<RoundRows>(state, tasks(group.most, kOctets));
  }

  // group.most counts distinct rows here.
  void solve(const Group& group, double threshold) {
    const int64_t shared = screen_shared_bytes(state_.padded), tiles = tasks(group.most, kTileRows);
    State state = of(group);
    state.threshold = threshold;
    if (group.alone) return launch_.phase<SolveAlone>(state, 1, shared);
    launch_.phase<Clear>(state, tasks(group.most, kThreads));
    const int64_t items = tiles * search_slices(state_, group.most);
    if (state.keep == Keep::reference) launch_.phase<Search<false>>(state, items, shared);
    if (state.keep == Keep::components) launch_.phase<Search<true>>(state, items, shared);
    for (int64_t tile = 0; state.keep == Keep::greedy && tile < tiles; ++tile) {
      launch_.phase<DecideBlock>(state, 1, shared);
      launch_.phase<ShowBlock>(state, tiles - tile, shared);
    }
    launch_.phase<Settle>(state, tasks(group.most, kThreads / kOctet));
    launch_.phase<Score>(state, items, shared);
    launch_.phase<JoinSlices>(state, tasks(group.most, kThreads));
  }

  void spread(const Group& group, double threshold, int64_t result) {
    State state = of(group);
    state.threshold = threshold;
    state.result = result;
    launch_.phase<Spread>(state, group.alone ? 1 : tasks(group.most, kThreads));
  }

 private:
  static constexpr int64_t kShared = kWarps * sizeof(int);

  State of(const Group& group) const {
    State state = state_;
    state.first = group.first;
    state.count = group.count;
    return state;
  }

  State state_;
  const Launcher& launch_;
};

// Clusters without rows are left out; the small ones come first.
std::vector<Group> groups_of(const std::vector<int64_t>& bounds, int64_t alone_rows, std::vector<int64_t>& order) {
  const auto places = [&](int64_t cluster) { return bounds[cluster + 1] - bounds[cluster]; };
  for (int64_t cluster = 0; cluster + 1 < static_cast<int64_t>(bounds.size()); ++cluster)
    if (places(cluster) > 0) order.push_back(cluster);
  const auto large = std::stable_partition(order.begin(), order.end(),
                                           [&](int64_t cluster) { return places(cluster) <= alone_rows; });
  int64_t most = 0;
  for (auto it = large; it != order.end(); ++it) most = std::max(most, places(*it));
  const int64_t small = large - order.begin(), all = static_cast<int64_t>(order.size());
  std::vector<Group> groups;
  if (small > 0) groups.push_back({0, small, alone_rows, true});
  if (all > small) groups.push_back({small, all - small, most, false});
  return groups;
}

template <class T>
void copy(T* to, const T* from, int64_t count, cudaMemcpyKind kind, const Launcher& launch) {
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(T), kind, launch.stream()), "cudaMemcpyAsync");
}

}  // namespace
}  // namespace adaptinf::semdedup::cuda

namespace adaptinf::semdedup {

using namespace cuda;

int64_t cuda_dedup_workspace(int64_t n, int64_t columns, int64_t clusters, int64_t thresholds, Keep keep) {
  int64_t bytes = 0;
  place(n, columns, clusters, thresholds, keep, nullptr, bytes);
  return bytes;
}

void dedup_cuda(const CudaDedup& call, void* workspace, int64_t device, uint64_t stream) {
  if (call.n() == 0 || call.thresholds.empty()) return;
  const DeviceGuard guard(device);
  const Launcher launch(device, stream);
  const int64_t results = static_cast<int64_t>(call.thresholds.size());
  int64_t bytes = 0;
  State state{};
  state.x = call.x, state.dtype = call.dtype, state.x_rows = call.x_rows, state.row_stride = call.row_stride;
  state.columns = call.columns, state.padded = padded(call.columns), state.rows = call.rows, state.n = call.n();
  state.results = results, state.keep = call.keep, state.slice_tiles = call.slice_tiles;
  state.work = place(call.n(), call.columns, call.clusters(), results, call.keep, workspace, bytes);
  state.kept = call.kept, state.before = call.before, state.similarity = call.similarity;

  std::vector<int64_t> order;
  std::vector<Group> groups = groups_of(call.bounds, call.alone_rows, order);
  copy(state.work.bounds, call.bounds.data(), call.clusters() + 1, cudaMemcpyHostToDevice, launch);
  copy(state.work.order, order.data(), static_cast<int64_t>(order.size()), cudaMemcpyHostToDevice, launch);
  copy(state.work.thresholds, call.thresholds.data(), results, cudaMemcpyHostToDevice, launch);
  check_cuda(cudaMemsetAsync(state.work.bad, 0, sizeof(int), launch.stream()), "cudaMemsetAsync");
  Launches launches(state, launch);
  for (const Group& group : groups) launches.prepare(group);

  int bad = 0;
  std::vector<int> distinct(static_cast<size_t>(call.clusters()));
  copy(&bad, state.work.bad, 1, cudaMemcpyDeviceToHost, launch);
  copy(distinct.data(), state.work.distinct, call.clusters(), cudaMemcpyDeviceToHost, launch);
  check_cuda(cudaStreamSynchronize(launch.stream()), "preparing a de-duplication");
  if (bad != 0) fail("rows: must be rows of x");

  for (const Group& places : groups) {
    Group rows = places;
    rows.most = 0;
    for (int64_t i = rows.first; i < rows.first + rows.count; ++i)
      rows.most = std::max<int64_t>(rows.most, distinct[static_cast<size_t>(order[static_cast<size_t>(i)])]);
    for (int64_t result = 0; result < results; ++result) {
      const double threshold = call.thresholds[static_cast<size_t>(result)];
      if (result == 0 || call.keep == Keep::greedy) launches.solve(rows, threshold);
      launches.spread(places, threshold, result);
    }
  }
}

}  // namespace adaptinf::semdedup
