// What the phases of a fit share: the call, its workspace, and how a problem's rows and clusters are found in them.
#pragma once

#include "arithmetic.cuh"

namespace adaptinf::kmeans::cuda {

// A row that an empty cluster took for one update.
struct Move {
  int64_t row, from, to;
};

// How far a screen can be from the score, in units of the problem: by what is largest among its clusters.
struct ClusterBounds {
  float error;  // |c - bfloat16(c)|
  float norm;   // |c| and |bfloat16(c)|
  float half;   // |c|^2 / 2
};

struct Workspace {
  int64_t *cu_rows, *cu_clusters;  // [problems + 1]: copies on the device, to which the state's fit points
  uint16_t *rows, *clusters;       // bfloat16 [n, padded], [clusters, padded]: y and c times the problem's unit
  float *row_error, *row_norm;     // [n]: |y - bfloat16(y)|; |y| and |bfloat16(y)|
  Unit* units;                     // [n], spherical only
  double* reach;                   // [problems]: max |y_it|
  double* half_squares;            // [clusters]: |c|^2 / 2
  float* half_screens;             // the same in the problem's units, float32
  double* shifts;                  // [clusters]
  ClusterBounds* bounds;           // [problems]
  float* candidate_below;          // [n]: of an undecided row, the screen up to which a cluster may be the nearest
  int64_t *undecided, *undecided_count;  // [n] rows of each problem, from its first row on; [problems]
  Move* moves;                     // [clusters], of each problem from its first cluster on
  int64_t *move_count, *relabelled, *inertia_before;  // [problems]
  int *vacant, *done;              // [problems]
  int64_t* finished;               // how many problems are done
};

struct Problem {
  int64_t number, first_row, rows, first_cluster, clusters;
};

struct State {
  CudaFit fit;
  Workspace work;
  int64_t padded;  // columns, filled up with zeros to whole steps of the tensor cores

  __host__ __device__ int64_t problems() const { return fit.problems; }
  __device__ Problem problem(int64_t number) const {
    const int64_t row = fit.cu_rows[number], cluster = fit.cu_clusters[number];
    return {number, row, fit.cu_rows[number + 1] - row, cluster, fit.cu_clusters[number + 1] - cluster};
  }
};

__device__ __forceinline__ const double* origin(const State& state, const Problem& p) {
  return state.fit.origin + p.number * state.fit.columns;
}

// Row `row` of all; what makes it a unit row is read where it is known, or given.
__device__ __forceinline__ Row row_of(const State& state, const Problem& p, int64_t row, Unit unit) {
  const char* data = static_cast<const char*>(state.fit.rows) + row * state.fit.row_stride * bytes_of(state.fit.dtype);
  return {data, state.fit.dtype, state.fit.spherical ? nullptr : origin(state, p), unit};
}

__device__ __forceinline__ Row row_of(const State& state, const Problem& p, int64_t row) {
  return row_of(state, p, row, state.fit.spherical ? state.work.units[row] : Unit{1, 1});
}

// c_t of cluster `cluster` of all.
struct Cluster {
  const float* data;
  const double* origin;  // null: spherical

  __device__ __forceinline__ double operator()(int64_t t) const {
    return origin == nullptr ? static_cast<double>(data[t]) : data[t] - origin[t];
  }
};

__device__ __forceinline__ Cluster cluster_of(const State& state, const Problem& p, int64_t cluster) {
  return {state.fit.centroids + cluster * state.fit.columns, state.fit.spherical ? nullptr : origin(state, p)};
}

// By an octet: the distance of a row from a cluster, lane8 of (y - c)^2 or 1 - y . c.
__device__ __forceinline__ double distance_of(const State& state, const Problem& p, int64_t row, int64_t cluster) {
  const Row y = row_of(state, p, row);
  const Cluster c = cluster_of(state, p, cluster);
  double total = 0;
  for (int64_t t = lane_of_octet(); t < state.fit.columns; t += kOctet) {
    const double of_row = y(t), of_cluster = c(t), step = of_row - of_cluster;
    total = add(total, state.fit.spherical ? multiply(of_row, of_cluster) : multiply(step, step));
  }
  total = join_octet(total);
  return state.fit.spherical ? add(1, -total) : total;
}

// By a warp: takes a row from the sums of cluster `from` (none if negative) to those of `to`, both of the problem's.
__device__ __forceinline__ void move_row(const State& state, const Problem& p, int64_t row, int64_t from, int64_t to) {
  const Row y = row_of(state, p, row);
  const bool weighted = state.fit.weights != nullptr;
  const double weight = weighted ? state.fit.weights[row] : 1, scale = state.fit.sum_scale[p.number];
  int64_t* added = state.fit.sums + (p.first_cluster + to) * state.fit.columns;
  int64_t* taken = state.fit.sums + (p.first_cluster + from) * state.fit.columns;
  for (int64_t t = lane_of_warp(); t < state.fit.columns; t += kLanes) {
    const int64_t value = rounded(multiply(multiply(y(t), weight), scale));
    add_integer(added + t, value);
    if (from >= 0) add_integer(taken + t, -value);
  }
  if (lane_of_warp() == 0) {
    const int64_t value = rounded(multiply(weight, state.fit.weight_scale[p.number]));
    add_integer(state.fit.cluster_weights + p.first_cluster + to, value);
    add_integer(state.fit.sizes + p.first_cluster + to, 1);
    if (from >= 0) {
      add_integer(state.fit.cluster_weights + p.first_cluster + from, -value);
      add_integer(state.fit.sizes + p.first_cluster + from, -1);
    }
  }
}

}  // namespace adaptinf::kmeans::cuda
