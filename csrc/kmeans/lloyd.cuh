// The steps of an iteration but for the assignment: refill, update, distances, and whether it was the last.
#pragma once

#include "pack.cuh"

namespace adaptinf::kmeans::cuda {

// A row that could go to an empty cluster. `size` and `label` are zero where the largest cluster has no precedence.
struct Candidate {
  int64_t size, label, row;
  double distance;
};

__device__ __forceinline__ bool before(const Candidate& a, const Candidate& b) {
  if (a.size != b.size) return a.size > b.size;
  if (a.label != b.label) return a.label < b.label;
  if (a.distance != b.distance) return a.distance > b.distance;
  return a.row < b.row;
}

__device__ __forceinline__ Candidate of_lane(const Candidate& c, int bits) {
  return {__shfl_xor_sync(kFullWarp, c.size, bits), __shfl_xor_sync(kFullWarp, c.label, bits),
          __shfl_xor_sync(kFullWarp, c.row, bits), __shfl_xor_sync(kFullWarp, c.distance, bits)};
}

// By one block: the row that the next empty cluster takes; row -1 where none may leave.
__device__ Candidate first_candidate(const State& state, const Problem& p, Candidate* shared) {
  const CudaFit& fit = state.fit;
  const Candidate none{-1, 0, -1, -1};
  Candidate best = none;
  for (int64_t row = p.first_row + threadIdx.x; row < p.first_row + p.rows; row += kThreads) {
    const int64_t label = fit.labels[row], size = fit.sizes[p.first_cluster + label];
    const double distance = fit.distances[row];
    if (!(distance > fit.rounding[p.number]) || size < 2 || (fit.weights != nullptr && !(fit.weights[row] > 0))) continue;
    const bool split = fit.empty == EmptyClusters::split;
    const Candidate candidate{split ? size : 0, split ? label : 0, row, distance};
    if (before(candidate, best)) best = candidate;
  }
  for (int bits = kLanes / 2; bits > 0; bits /= 2) {
    const Candidate other = of_lane(best, bits);
    if (before(other, best)) best = other;
  }
  if (lane_of_warp() == 0) shared[threadIdx.x / kLanes] = best;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp)
    if (before(shared[warp], best)) best = shared[warp];
  return best;
}

// By one block: empty clusters in ascending order each take a row, for one update. Where distances are known.
__device__ void refill(const State& state, const Problem& p, unsigned char* shared) {
  int64_t moves = 0;
  bool left = true;
  for (int64_t first = 0; first < p.clusters && left; first += kLanes) {
    const int64_t mine = first + lane_of_warp();
    const bool empty = mine < p.clusters && state.fit.sizes[p.first_cluster + mine] == 0;
    for (unsigned vacant = __ballot_sync(kFullWarp, empty); vacant != 0 && left; vacant &= vacant - 1) {
      const Candidate taken = first_candidate(state, p, reinterpret_cast<Candidate*>(shared));
      left = taken.row >= 0;
      if (!left) break;
      const Move move{taken.row, state.fit.labels[taken.row], first + __ffs(static_cast<int>(vacant)) - 1};
      if (threadIdx.x < kLanes) move_row(state, p, move.row, move.from, move.to);
      if (threadIdx.x == 0) {
        state.work.moves[p.first_cluster + moves] = move;
        state.fit.distances[move.row] = -1;  // until the next iteration: taken
      }
      ++moves;
      __syncthreads();  // the next candidates are sought by the new sizes, and through the same shared memory
    }
  }
  if (threadIdx.x == 0) state.work.move_count[p.number] = moves;
}

// By one block: rows that empty clusters took go back, for what changes now is counted from the labels.
__device__ void take_back(const State& state, const Problem& p) {
  const int64_t moves = state.work.move_count[p.number];
  for (int64_t i = threadIdx.x / kLanes; i < moves; i += kWarps) {
    const Move move = state.work.moves[p.first_cluster + i];
    move_row(state, p, move.row, move.to, move.from);
  }
}

// New centroids from the sums, how far they moved, and their bfloat16.
__device__ void update_clusters(const State& state, const Problem& p, const Team& team) {
  const CudaFit& fit = state.fit;
  const double sum_scale = fit.sum_scale[p.number], weight_scale = fit.weight_scale[p.number];
  for_octets(team, p.clusters, [&](int64_t index, bool valid) {
    const int64_t columns = valid ? fit.columns : 0, cluster = p.first_cluster + index, weight = fit.cluster_weights[cluster];
    const double heavy = static_cast<double>(weight == 0 ? 1 : weight) / weight_scale;
    const int64_t* sums = fit.sums + cluster * fit.columns;
    const auto mean = [&](int64_t t) { return static_cast<double>(sums[t]) / sum_scale / heavy; };
    Unit unit{1, 1};
    double magnitude = 0;
    if (fit.spherical) {
      unit = unit_of(mean, columns, lane_of_octet());
      for (int64_t t = lane_of_octet(); t < columns; t += kOctet) magnitude = fmax(magnitude, fabs(mean(t)));
    }
    const bool keep = weight == 0 || (fit.spherical && largest_of_octet(magnitude) == 0);
    float* centroid = fit.centroids + cluster * fit.columns;
    double away = 0;
    for (int64_t t = lane_of_octet(); t < columns; t += kOctet) {
      const double found = fit.spherical ? multiply(mean(t), unit.power) / unit.length : mean(t) + origin(state, p)[t];
      const float old = centroid[t], updated = keep ? old : static_cast<float>(found);
      const double step = static_cast<double>(updated) - static_cast<double>(old);
      away = add(away, multiply(step, step));
      centroid[t] = updated;
    }
    away = join_octet(away);
    if (valid && lane_of_octet() == 0) state.work.shifts[cluster] = away;
    pack_cluster(state, p, cluster, valid);  // each lane packs the columns that it wrote
  });
}

// Distances of all rows to their centroids, and as wanted what they add up to and the largest of each cluster.
__device__ void measure_distances(const State& state, const Problem& p, const Team& team, bool inertia, bool radii) {
  const CudaFit& fit = state.fit;
  int64_t sum = 0;
  for_octets(team, p.rows, [&](int64_t index, bool valid) {
    const int64_t row = p.first_row + index, cluster = p.first_cluster + fit.labels[row];
    const double distance = distance_of(state, p, row, cluster);
    if (!valid || lane_of_octet() != 0) return;
    fit.distances[row] = distance;
    const double weighted = fit.weights == nullptr ? distance : multiply(distance, fit.weights[row]);
    sum += rounded(multiply(weighted, fit.inertia_scale[p.number]));
    if (radii && distance > 0) raise(fit.radii + cluster, distance);
  });
  if (inertia && sum != 0) add_integer(fit.inertia + p.number, sum);
}

// By one block, after each assignment: counts the iteration (the first assignment is none), says whether it was the last
// and whether clusters are empty, and clears what the next one adds to.
__device__ void conclude(const State& state, const Problem& p) {
  const CudaFit& fit = state.fit;
  const Workspace& work = state.work;
  const int lane = lane_of_warp();
  __syncthreads();  // all have read that the problem is not done
  if (threadIdx.x >= kLanes) return;
  bool vacant = false;
  double shift = 0;
  for (int64_t first = 0; first < p.clusters; first += kLanes) {
    const int64_t cluster = p.first_cluster + first + lane;
    const bool mine = first + lane < p.clusters;
    vacant = vacant || (mine && fit.sizes[cluster] == 0);
    const double part = mine ? work.shifts[cluster] : 0;
    for (int i = 0; i < kLanes; ++i) shift = add(shift, __shfl_sync(kFullWarp, part, i));  // in ascending order
  }
  vacant = __ballot_sync(kFullWarp, vacant) != 0;
  if (lane != 0) return;
  const int64_t changed = work.relabelled[p.number], inertia = fit.inertia[p.number];
  const int64_t iteration = fit.n_iter[p.number] + 1;
  const double threshold = fit.threshold[p.number];
  bool settled = false;
  if (iteration > 0) {
    const int64_t earlier = work.inertia_before[p.number];
    settled = changed == 0 || (fit.by_inertia ? static_cast<double>(earlier - inertia) <=
                                                    multiply(threshold, static_cast<double>(earlier))
                                              : shift <= threshold);
  }
  fit.n_iter[p.number] = iteration;
  fit.changed[p.number] = iteration > 0 ? changed : 0;
  work.done[p.number] = settled || iteration == fit.max_iter;
  if (work.done[p.number] != 0) add_integer(work.finished, 1);
  work.vacant[p.number] = vacant && fit.empty != EmptyClusters::keep;
  work.inertia_before[p.number] = inertia;
  work.relabelled[p.number] = 0;
  work.undecided_count[p.number] = 0;
  work.move_count[p.number] = 0;
  work.bounds[p.number] = {0, 0, 0};
  fit.inertia[p.number] = 0;
}

}  // namespace adaptinf::kmeans::cuda
