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
  Bounds(const Kernels& kernels, const Rows& rows)
      : kernels_(kernels), unit_(rows.unit), padded_(rows.padded), count_(padded_to(rows.count, kernels.tile_rows)),
        norm_(count_), upper_(count_), lower_(count_) {
    for (const auto* part : {&norm_, &upper_, &lower_}) std::fill(part->get(), part->get() + count_, 0.0f);
  }

  void set_norm(int64_t row, double norm) { norm_[row] = static_cast<float>(norm); }

  // Call once all norms are set.
  void close() { longest_ = count_ == 0 ? 0 : *std::max_element(norm_.get(), norm_.get() + count_) * (1 + kNear); }

  // Whose screens take() will be given.
  void meet(const Centroids& centroids) {
    const double longest = centroids.longest(), shortest = centroids.shortest();
    far_ = unit_ ? rounded_up(longest * longest * (1 + kNear)) : 0;
    near_ = unit_ ? rounded_down(shortest * shortest * (1 - kNear)) : 0;
  }

  // Takes what a screen said of rows of a tile, bit r of `which` for row r.
  void take(const Tile& tile, const Found& found, uint64_t which) {
    float norm[kMaxTileRows]{}, upper[kMaxTileRows], lower[kMaxTileRows];
    if (tile.ids != nullptr)
      for (uint64_t bits = which; bits != 0; bits &= bits - 1) {
        const int r = __builtin_ctzll(bits);
        norm[r] = norm_[tile.ids[r]];
      }
    kernels_.bound(found, tile.ids == nullptr ? norm_.get() + tile.first : norm, far_, near_, upper, lower);
    if (tile.ids == nullptr && which == ~uint64_t{0} >> (64 - kernels_.tile_rows)) {
      std::copy(upper, upper + kernels_.tile_rows, upper_.get() + tile.first);
      std::copy(lower, lower + kernels_.tile_rows, lower_.get() + tile.first);
      return;
    }
    for (uint64_t bits = which; bits != 0; bits &= bits - 1) {
      const int r = __builtin_ctzll(bits);
      upper_[tile.id(r)] = upper[r], lower_[tile.id(r)] = lower[r];
    }
  }

  // Centroids have moved so far. Call before loosen().
  void move(const float* moved, int64_t count, const Centroids& centroids) {
    const int64_t farthest = std::max_element(moved, moved + count) - moved;
    float second = 0;
    for (int64_t j = 0; j < count; ++j)
      if (j != farthest) second = std::max(second, moved[j]);
    // what the scores' own rounding may hide, and for unit rows how the lengths of centroids differ
    const double far = centroids.longest() * (1 + kNear), near = centroids.shortest() * (1 - kNear);
    const double rounding = static_cast<double>(padded_ + 64) * 0x1p-53;
    const float margin =
        rounded_up((rounding * far * (far + longest_) + (unit_ ? far * far - near * near : 0)) * (1 + kNear) + kFlushed);
    drift_ = {moved, static_cast<int32_t>(farthest), moved[farthest], second, margin};
  }

  // Of the tile of rows from `first` on: bit r where row r's label may have changed.
  uint64_t loosen(int64_t first, const int32_t* labels) {
    return kernels_.loosen(drift_, labels, upper_.get() + first, lower_.get() + first);
  }

 private:
  static constexpr double kNear = 0x1p-20;  // beyond all roundings to float32

  const Kernels& kernels_;
  const bool unit_;
  const int64_t padded_, count_;
  double longest_ = 0;
  float far_ = 0, near_ = 0;
  Buffer<float> norm_, upper_, lower_;
  Drift drift_{};
};

}  // namespace adaptinf::kmeans
