// Which rows cannot have changed their cluster (Hamerly): distances to the own centroid and to the nearest other one are
// bounded, and centroids that move loosen the bounds by as much. Distances are between the float64 rows and centroids,
// scaled as in packing.h; everything is rounded towards the looser side.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../common/parallel.h"
#include "assignment.h"

namespace adaptinf::kmeans {

class Bounds {
 public:
  Bounds(const Kernels& kernels, const Rows& rows)
      : kernels_(kernels), unit_(rows.unit), padded_(rows.padded), count_(padded_to(rows.count, kernels.tile_rows)),
        norm_(count_), upper_(count_), lower_(count_) {
    std::fill(upper_.get(), upper_.get() + count_, std::numeric_limits<float>::infinity());
    for (const auto* part : {&norm_, &lower_}) std::fill(part->get(), part->get() + count_, 0.0f);
  }

  // The rows' scaled norms, to be set.
  float* norms() { return norm_.get(); }

  // Takes bounds on a row's distances without a scale, `upper` to the own centroid and `lower` to any other one; false where
  // they prove nothing. meet() has been called; see give(). The norm of a row that is not packed is bounded as well.
  bool recall(int64_t row, bool packed, double scale, double upper, double lower) {
    const double above = upper * scale, below = std::min(lower * scale, kFar);
    upper_[row] = std::numeric_limits<float>::infinity(), lower_[row] = 0;
    if (!(above >= 0 && above < kFar && below > above)) return false;
    if (!packed) norm_[row] = rounded_up((above + met_) * (1 + kNear));
    upper_[row] = rounded_up(above + slack(row));
    lower_[row] = rounded_down(std::max(0.0, below - slack(row)));
    return true;
  }

  // Gives such bounds: of |x - C|, which holds in any frame, while ours are of |y - c|, both of which were rounded.
  void give(int64_t row, double scale, double* upper, double* lower) const {
    const double above = (upper_[row] + slack(row)) / scale, below = (lower_[row] - slack(row)) / scale;
    *upper = above >= 0 ? above : std::numeric_limits<double>::infinity();  // it may be no number
    *lower = below > 0 ? below : 0;
  }

  // Call once all norms are set or recalled.
  void close() { longest_ = count_ == 0 ? 0 : *std::max_element(norm_.get(), norm_.get() + count_) * (1 + kNear); }

  // Whose screens take() will be given.
  void meet(const Centroids& centroids) {
    const double longest = centroids.longest(), shortest = centroids.shortest();
    met_ = longest * (1 + kNear);
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
  void move(const std::vector<float>& moved, const Centroids& centroids, int threads) {
    const auto count = static_cast<int64_t>(moved.size()), few = std::clamp<int64_t>(count / 8, 1, kFew);
    // by how far they moved: a few, and then the one that moved farthest of the others
    std::vector<int32_t> order(moved.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + std::min(few + 1, count), order.end(),
                      [&](int32_t a, int32_t b) { return moved[a] > moved[b] || (moved[a] == moved[b] && a < b); });
    const auto moved_by = [&](int64_t place) { return place < count ? moved[order[place]] : 0.0f; };
    gaps_.assign(moved.size(), std::numeric_limits<float>::infinity());
    if (moved_by(0) > moved_by(few))
      parallel_for(count, threads, [&](int64_t j) {
        for (int64_t i = 0; i < few; ++i)
          if (order[i] != j) gaps_[j] = std::min(gaps_[j], centroids.gap(j, order[i]));
      });
    // what the scores' own rounding may hide, and for unit rows how the lengths of centroids differ
    const double far = centroids.longest() * (1 + kNear), near = centroids.shortest() * (1 - kNear);
    const double rounding = static_cast<double>(padded_ + 64) * 0x1p-53;
    const float margin =
        rounded_up((rounding * far * (far + longest_) + (unit_ ? far * far - near * near : 0)) * (1 + kNear) + kFlushed);
    drift_ = {moved.data(), gaps_.data(), order[0], moved_by(0), moved_by(1), moved_by(few), margin};
  }

  // Of the tile of rows from `first` on: bit r where row r's label may have changed.
  uint64_t loosen(int64_t first, const int32_t* labels) {
    return kernels_.loosen(drift_, labels, upper_.get() + first, lower_.get() + first);
  }

 private:
  double slack(int64_t row) const { return kFramed * (norm_[row] + met_) + kLost; }

  static constexpr double kNear = 0x1p-20;    // beyond all roundings to float32
  static constexpr double kFramed = 0x1p-51;  // beyond the roundings of a row and a centroid less an origin
  static constexpr double kLost = 0x1p-58;    // and beyond distances whose squares vanish
  static constexpr int64_t kFew = 32;         // centroids that may move farther than the others without loosening all bounds
  static constexpr double kFar = 0x1p100;     // well within the range of float32

  const Kernels& kernels_;
  const bool unit_;
  const int64_t padded_, count_;
  double longest_ = 0, met_ = 0;
  float far_ = 0, near_ = 0;
  Buffer<float> norm_, upper_, lower_;
  std::vector<float> gaps_;
  Drift drift_{};
};

}  // namespace adaptinf::kmeans
