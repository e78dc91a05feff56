#include "centroids.h"

#include <cmath>
#include <limits>

#include "../common/parallel.h"

namespace adaptinf::kmeans {

Centroids::Centroids(const Kernels& kernels, const Packing& packing, const Rows& rows, int64_t count)
    : kernels_(kernels), packing_(packing), origin_(rows.origin), columns_(rows.columns), padded_(rows.padded),
      count_(count), n_panels_((count + kPanel - 1) / kPanel), unit_(rows.unit), exact_(count * rows.padded),
      half_(count), norms_(count), panels_(n_panels_ * kPanel * packing.words), offsets_(n_panels_ * kPanel),
      norm_share_(std::max(count, kShortTable)), residual_(std::max(count, kShortTable)),
      rest_(std::max(count, kShortTable)) {
  std::fill(panels_.get(), panels_.get() + n_panels_ * kPanel * packing.words, 0u);
  std::fill(offsets_.get(), offsets_.get() + n_panels_ * kPanel, -std::numeric_limits<float>::infinity());
  for (const auto* part : {&norm_share_, &residual_, &rest_}) std::fill(part->get(), part->get() + kShortTable, 0.0f);
}

void Centroids::set(const State& state, int threads) {
  constexpr int64_t kSome = 16;
  parallel_for((count_ + kSome - 1) / kSome, threads, [&](int64_t task) {
    std::vector<uint32_t> scratch(static_cast<size_t>(packing_.words));
    for (int64_t j = task * kSome; j < std::min(count_, (task + 1) * kSome); ++j) set_one(state, j, scratch.data(), &norms_[j]);
  });
  longest_ = *std::max_element(norms_.get(), norms_.get() + count_);
  shortest_ = *std::min_element(norms_.get(), norms_.get() + count_);
  screenable_ = std::all_of(norms_.get(), norms_.get() + count_, [](double norm) { return norm < kLongest; });
}

void Centroids::set_one(const State& state, int64_t j, uint32_t* scratch, double* norm) {
  double* c = exact_.get() + j * padded_;
  for (int64_t t = 0; t < columns_; ++t) c[t] = state.at(j, t) - origin_[t];
  for (int64_t t = columns_; t < padded_; ++t) c[t] = 0;
  half_[j] = unit_ ? 0 : 0.5 * kernels_.dot(c, c, padded_);
  uint32_t* panel = panels_.get() + j / kPanel * kPanel * packing_.words + j % kPanel;
  const Slack slack = packing_.centroid(c, scratch, panel, kPanel, norm);
  norm_share_[j] = slack.a, residual_[j] = slack.b;
  const double half = unit_ ? 0 : 0.5 * *norm * *norm;
  const double excess = 2 * packing_.growth * half + static_cast<double>(packing_.words) * kFlushed;
  rest_[j] = *norm < kLongest ? rounded_up(excess) : 0;
  offsets_[j] = *norm < kLongest ? rounded_up(excess - half) : 0;
}

float Centroids::gap(int64_t i, int64_t j) const {
  const double squared = kernels_.squared_distance(row(i), row(j), padded_);
  return rounded_down(std::sqrt(squared) * packing_.scale() * (1 - 0x1p-30));
}

void Centroids::moved(const double* earlier, float* distances) const {
  for (int64_t j = 0; j < count_; ++j) {
    const double squared = kernels_.squared_distance(row(j), earlier + j * padded_, padded_);
    distances[j] = rounded_up(std::sqrt(squared) * packing_.scale() * (1 + 0x1p-30));
  }
}

}  // namespace adaptinf::kmeans
