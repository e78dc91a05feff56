// Which rows cannot have changed their cluster (Hamerly): distances to the own centroid and to the nearest other one are
// bounded, and centroids that move loosen the bounds by as much. Distances are between the float64 rows and centroids,
// scaled as in packing.h; everything is rounded towards the looser side.
#pragma once

#include <algorithm>
#include <cmath>

#include "assignment.h"

namespace adaptinf::kmeans {

class Bounds {
 public:
  Bounds(const Rows& rows, bool unit) : unit_(unit), padded_(rows.padded), norm_(rows.count), upper_(rows.count), lower_(rows.count) {}

  void set_norm(int64_t row, double norm) { norm_[row] = static_cast<float>(norm); }

  // Call once all norms are set.
  void close(int64_t rows) { longest_ = rows == 0 ? 0 : *std::max_element(norm_.get(), norm_.get() + rows) * (1 + kNear); }

  // Takes what a screen said of a row. |y - c|^2 = |y|^2 + 2 score, for unit rows |y|^2 + |c|^2 + 2 score.
  void set(int64_t row, const Screened& found, const Centroids& centroids) {
    const double squared = static_cast<double>(norm_[row]) * norm_[row];
    const double far = unit_ ? centroids.longest() * centroids.longest() * (1 + kNear) : 0;
    const double near = unit_ ? centroids.shortest() * centroids.shortest() * (1 - kNear) : 0;
    const double above = squared * (1 + kNear) + far - 2 * (found.top - found.excess);
    const double below = squared * (1 - kNear) + near - 2 * found.others;
    upper_[row] = std::sqrt(static_cast<float>(std::max(above, 0.0))) * static_cast<float>(1 + kNear);
    lower_[row] = below > 0 ? std::sqrt(static_cast<float>(below)) * static_cast<float>(1 - kNear) : 0;
  }

  // Loosens by how far centroids moved. Call before keeps().
  void move(const float* moved, int64_t count, const Centroids& centroids) {
    moved_ = moved;
    farthest_ = std::max_element(moved, moved + count) - moved;
    most_ = moved[farthest_], second_ = 0;
    for (int64_t j = 0; j < count; ++j)
      if (j != farthest_) second_ = std::max(second_, moved[j]);
    // what the scores' own rounding may hide, and for unit rows how the lengths of centroids differ
    const double far = centroids.longest() * (1 + kNear), near = centroids.shortest() * (1 - kNear);
    const double rounding = static_cast<double>(padded_ + 64) * 0x1p-53;
    margin_ = rounded_up((rounding * far * (far + longest_) + (unit_ ? far * far - near * near : 0)) * (1 + kNear) + kFlushed);
  }

  // Whether the row surely keeps its label.
  bool keeps(int64_t row, int64_t label) {
    const float by = label == farthest_ ? second_ : most_;
    const float upper = (upper_[row] + moved_[label]) * static_cast<float>(1 + kNear);
    const float lower = (lower_[row] - by) * static_cast<float>(1 - kNear);
    upper_[row] = upper, lower_[row] = lower > 0 ? lower : 0;
    return lower > upper && (lower - upper) * (lower + upper) > margin_;
  }

 private:
  static constexpr double kNear = 0x1p-20;  // beyond all roundings to float32

  const bool unit_;
  const int64_t padded_;
  double longest_ = 0;
  Buffer<float> norm_, upper_, lower_;
  const float* moved_ = nullptr;
  int64_t farthest_ = 0;
  float most_ = 0, second_ = 0, margin_ = 0;
};

}  // namespace adaptinf::kmeans
