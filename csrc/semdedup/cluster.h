// One cluster: its distinct rows as unit rows on demand, and rounded for the screen.
#pragma once

#include <memory>
#include <vector>

#include "../common/parallel.h"
#include "../grad_sketch/kernels.h"
#include "semdedup.h"

namespace adaptinf::semdedup {

// What a thread needs to make a unit row.
struct Scratch {
  explicit Scratch(int64_t width) : wide(static_cast<size_t>(width)), unit(static_cast<size_t>(width)) {}
  std::vector<float> wide, unit;
};

class Cluster {
 public:
  // Places `first` to `last` of the problem; equal unit rows are found, the first of each stands for all. Those are
  // `rounded` as well where anything below `center_square` is used.
  Cluster(const Problem& problem, int64_t first, int64_t last, const Machine& machine, bool rounded);

  int64_t size() const { return static_cast<int64_t>(distinct_of_.size()); }
  int64_t distinct() const { return static_cast<int64_t>(place_of_.size()); }
  int64_t width() const { return width_; }

  int64_t place(int64_t distinct) const { return place_of_[static_cast<size_t>(distinct)]; }
  int64_t distinct_at(int64_t place) const { return distinct_of_[static_cast<size_t>(place)]; }
  // The similarity of a row to its copies: 1, or 0 of a zero row.
  double self_similarity(int64_t distinct) const { return scaling(distinct).inverse == 0 ? 0 : 1; }

  void unit(int64_t distinct, Scratch& scratch, float* out) const { unit_at(place(distinct), scratch, out); }
  // The similarity of two distinct rows, as unit rows.
  double similarity(const float* unit, const float* other) const;

  // similarity = rounded_i . rounded_j + along_i + along_j + center_square, but for rounding
  double center_square() const { return center_square_; }
  int64_t words() const { return words_; }
  const uint32_t* rounded(int64_t distinct) const { return rounded_.get() + distinct * words_; }
  const Residual& residual(int64_t distinct) const { return residuals_[static_cast<size_t>(distinct)]; }
  const Kernels& kernels() const { return kernels_; }

 private:
  const Scaling& scaling(int64_t distinct) const { return scalings_[static_cast<size_t>(place(distinct))]; }
  const void* row(int64_t place) const;
  void unit_at(int64_t place, Scratch& scratch, float* out) const;
  void measure(int64_t place, Scratch& scratch);
  std::vector<float> mean();
  void find_copies(const std::vector<uint32_t>& hashes);
  void leave_out_copies();

  const TensorView& x_;
  const int64_t* rows_;
  const int64_t step_, count_, width_, words_;
  const Kernels& kernels_;
  const adaptinf::Kernels& widening_;

  std::vector<Scaling> scalings_;  // of places
  std::vector<int64_t> place_of_, distinct_of_;
  std::unique_ptr<uint32_t[]> rounded_;
  std::vector<Residual> residuals_;
  double center_square_ = 0;
};

constexpr int64_t kLarge = 2048;  // rows of a cluster whose work is shared; smaller ones are a task each

// task(cluster, first, last, machine) for every cluster that has rows.
template <typename Task>
void for_each_cluster(const Problem& problem, const Machine& machine, const Task& task) {
  std::vector<int64_t> small;
  for (int64_t cluster = 0; cluster < problem.clusters; ++cluster) {
    const int64_t first = problem.bounds[cluster], last = problem.bounds[cluster + 1];
    if (last - first >= kLarge && machine.threads > 1) {
      task(cluster, first, last, machine);
    } else if (last > first) {
      small.push_back(cluster);
    }
  }
  const Machine alone{machine.level, machine.kernels, 1};
  parallel_for(static_cast<int64_t>(small.size()), machine.threads, [&](int64_t i) {
    const int64_t cluster = small[static_cast<size_t>(i)];
    task(cluster, problem.bounds[cluster], problem.bounds[cluster + 1], alone);
  });
}

}  // namespace adaptinf::semdedup
