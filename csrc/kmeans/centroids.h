// The centroids of one problem as one pass over the rows sees them.
#pragma once

#include <vector>

#include "packing.h"

namespace adaptinf::kmeans {

// What turns the rows of one problem into integers; see kernels/adaptinf_kernels/kmeans/README.md.
struct Frame {
  double sum_scale, weight_scale, inertia_scale, rounding;
};

// Centroids in the state dtype.
struct State {
  void* data;
  DType dtype;  // float32 or float64
  int64_t count, step;

  double at(int64_t j, int64_t t) const {
    const int64_t place = j * step + t;
    return dtype == DType::float32 ? static_cast<double>(static_cast<const float*>(data)[place])
                                   : static_cast<const double*>(data)[place];
  }
  void put(int64_t j, int64_t t, double value) const {
    const int64_t place = j * step + t;
    if (dtype == DType::float32) static_cast<float*>(data)[place] = static_cast<float>(value);
    else static_cast<double*>(data)[place] = value;
  }
};

class Centroids {
 public:
  Centroids(const Kernels& kernels, const Packing& packing, const Rows& rows, int64_t count);

  // Takes the state's centroids less the rows' origin.
  void set(const State& state, int threads);

  const double* row(int64_t j) const { return exact_.get() + j * padded_; }

  // half |c_j|^2 - y . c_j, or - y . c_j for unit rows: the score that decides.
  double score(const double* y, int64_t j) const { return half_[j] - kernels_.dot(y, row(j), padded_); }

  // The scores of a row for two of them; y [padded] is scratch.
  void scores(const Rows& rows, int64_t row, int64_t one, int64_t two, double (&found)[2], double* y) const {
    kernels_.two_dots(rows, row, this->row(one), this->row(two), found, y);
    found[0] = half_[one] - found[0], found[1] = half_[two] - found[1];
  }

  // Whether every centroid could be packed; where not, scores must decide.
  bool screenable() const { return screenable_; }

  const uint32_t* panels() const { return panels_.get(); }
  const float* offsets() const { return offsets_.get(); }
  int64_t n_panels() const { return n_panels_; }
  int64_t count() const { return count_; }

  // E_ij for the slack of row i.
  double error(const Slack& row, int64_t j) const {
    return static_cast<double>(row.a) * norm_share_[j] + static_cast<double>(row.b) * residual_[j] + rest_[j];
  }
  Shares shares() const { return {norm_share_.get(), residual_.get(), rest_.get(), count_}; }

  double longest() const { return longest_; }    // the largest scaled norm
  double shortest() const { return shortest_; }  // the least

  // |c_i - c_j| scaled, not above.
  float gap(int64_t i, int64_t j) const;

  // |c_j - earlier c_j| scaled, not below; `earlier` [count][padded].
  void moved(const double* earlier, float* distances) const;

 private:
  void set_one(const State& state, int64_t j, uint32_t* scratch, double* norm);

  const Kernels& kernels_;
  const Packing& packing_;
  const double* origin_;
  const int64_t columns_, padded_, count_, n_panels_;
  const bool unit_;
  bool screenable_ = true;
  double longest_ = 0, shortest_ = 0;
  Buffer<double> exact_, half_, norms_;
  Buffer<uint32_t> panels_;
  Buffer<float> offsets_, norm_share_, residual_, rest_;
};

}  // namespace adaptinf::kmeans
