// Greedy k-means++ of one problem, and of many: each next centroid is the best of a few rows, drawn with chances in
// proportion to weight and distance to the nearest centroid so far.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "../common/parallel.h"
#include "kmeans.h"

namespace adaptinf::kmeans {
namespace {

constexpr int64_t kTiles = 16;         // tiles of a task
constexpr double kNear = 0x1p-20;      // beyond the roundings of norms, distances and thresholds to float32

// A row that a candidate is nearer to than every centroid so far.
struct Nearer {
  int64_t row;
  double away;
};

Rows with_origin(Rows rows, const double* origin) {
  rows.origin = origin;
  return rows;
}

class PlusPlus {
 public:
  PlusPlus(const Start& start, const Execution& how)
      : start_(start), rows_(start.rows), threads_(how.threads), kernels_(kernels(how.level, how.brain)),
        packing_(kernels_, rows_.columns, screen_scale(start.frame, rows_.columns), false),
        zeros_(static_cast<size_t>(rows_.padded)), framed_(with_origin(rows_, zeros_.data())),
        candidates_(kernels_, packing_, framed_, start.candidates),
        block_(kTiles * kernels_.tile_rows), n_blocks_((rows_.count + block_ - 1) / block_),
        nearest_(static_cast<size_t>(rows_.count)), potential_(static_cast<size_t>(rows_.count)),
        totals_(static_cast<size_t>(n_blocks_)), nearer_(static_cast<size_t>(n_blocks_ * start.candidates)) {}

  void run() {
    for (int64_t row = 0; row < rows_.count; ++row) set_potential(row, std::llrint(weight(row) * start_.frame.weight_scale));
    if (whole() == 0)
      for (int64_t row = 0; row < rows_.count; ++row) set_potential(row, 1);
    const int64_t* draws = start_.draws;
    start_.ids[0] = pick(*draws++, whole());
    if (start_.count == 1) return;
    pack();
    meet_first(start_.ids[0]);
    for (int64_t chosen = 1; chosen < start_.count; ++chosen, draws += start_.candidates) {
      const int64_t total = whole();
      if (total == 0) return fill_up(chosen);  // all other rows are copies of chosen ones
      start_.ids[chosen] = best_of(draws, total);
    }
  }

 private:
  double weight(int64_t row) const { return start_.weights == nullptr ? 1 : start_.weights[row]; }

  int64_t whole() const {
    int64_t sum = 0;
    for (const int64_t total : totals_) sum += total;
    return sum;
  }

  void set_potential(int64_t row, int64_t value) {
    totals_[static_cast<size_t>(row / block_)] += value - potential_[static_cast<size_t>(row)];
    potential_[static_cast<size_t>(row)] = value;
  }

  // The row where the sum of the potentials passes the share draw / 2^63 of the whole; some row if they are no potentials.
  int64_t pick(int64_t draw, int64_t whole) const {
    auto left = static_cast<int64_t>(static_cast<unsigned __int128>(draw) * static_cast<uint64_t>(whole) >> 63);
    int64_t block = 0;
    for (; block + 1 < n_blocks_ && left >= totals_[static_cast<size_t>(block)]; ++block)
      left -= totals_[static_cast<size_t>(block)];
    int64_t row = block * block_;
    const int64_t last = std::min(rows_.count, row + block_) - 1;
    for (; row < last && left >= potential_[static_cast<size_t>(row)]; ++row) left -= potential_[static_cast<size_t>(row)];
    return row;
  }

  void pack() {
    const int64_t padded = padded_to(rows_.count, kernels_.tile_rows);
    packed_ = Buffer<uint32_t>(padded * packing_.words);
    norms_ = Buffer<float>(padded), least_ = Buffer<float>(padded);
    std::fill(least_.get(), least_.get() + padded, 0.0f);
    pack_tiles(kernels_, packing_, rows_, packed_.get(), norms_.get(), threads_);
  }

  // The rows' distances to the first centroid.
  void meet_first(int64_t first) {
    std::vector<double> c(static_cast<size_t>(rows_.padded));
    kernels_.load(rows_, first, c.data());
    std::fill(totals_.begin(), totals_.end(), int64_t{0});
    std::fill(potential_.begin(), potential_.end(), int64_t{0});
    parallel_for(n_blocks_, threads_, [&](int64_t block) {
      const Buffer<double> y(rows_.padded);
      for (int64_t row = block * block_; row < std::min(rows_.count, (block + 1) * block_); ++row)
        set_nearest(row, kernels_.row_distance(rows_, row, c.data(), y.get()));
    });
  }

  // What is within rounding counts as zero. A row need not be looked at while a candidate's screen, which is not below
  // y . c - |c|^2 / 2, is below `least_`: |y - c|^2 = |y|^2 - 2 (y . c - |c|^2 / 2), for unit rows 1 - y . c.
  void set_nearest(int64_t row, double away) {
    const auto at = static_cast<size_t>(row);
    nearest_[at] = away > start_.frame.rounding ? away : 0;
    set_potential(row, integer(row, nearest_[at]));
    const double square = packing_.scale() * packing_.scale(), limit = nearest_[at] * square;
    const double norm = static_cast<double>(norms_[row]) * norms_[row];
    least_[row] = rounded_down(rows_.unit ? square - limit - 4 * kNear * square
                                          : 0.5 * (norm - limit) - 2 * kNear * (norm + limit));
  }

  int64_t integer(int64_t row, double away) const {
    return std::llrint(away * weight(row) * start_.frame.inertia_scale);
  }

  // The one of the rows drawn that leaves the least sum of potentials, the first of equals; it joins the centroids.
  int64_t best_of(const int64_t* draws, int64_t whole) {
    const int64_t count = start_.candidates;
    std::vector<int64_t> drawn;
    Buffer<double> places(count * rows_.padded);
    for (int64_t j = 0; j < count; ++j) {
      drawn.push_back(pick(draws[j], whole));
      kernels_.load(rows_, drawn.back(), places.get() + j * rows_.padded);
    }
    candidates_.set({places.get(), DType::float64, count, rows_.padded}, threads_);
    std::vector<std::atomic<int64_t>> gains(drawn.size());
    parallel_for(n_blocks_, threads_, [&](int64_t block) { look(block, gains); });
    size_t best = 0;
    for (size_t j = 1; j < gains.size(); ++j)
      if (gains[j] > gains[best]) best = j;
    for (int64_t block = 0; block < n_blocks_; ++block)
      for (const Nearer& one : nearer_[static_cast<size_t>(block * count) + best]) set_nearest(one.row, one.away);
    return drawn[best];
  }

  // Finds the rows of a block that each candidate is nearer to, and by how much the sum of potentials would fall.
  void look(int64_t block, std::vector<std::atomic<int64_t>>& gains) {
    const int64_t count = start_.candidates, height = kernels_.tile_rows, words = packing_.words;
    const Buffer<float> screens(candidates_.n_panels() * kPanel * height);
    const Buffer<double> y(rows_.padded);
    std::vector<Nearer>* nearer = nearer_.data() + block * count;
    for (int64_t j = 0; j < count; ++j) nearer[j].clear();
    for (int64_t first = block * block_; first < std::min(rows_.count, (block + 1) * block_); first += height) {
      const uint64_t all = ~uint64_t{0} >> (64 - std::min(height, rows_.count - first));
      if (candidates_.screenable())
        kernels_.screen_all(packed_.get() + first * words, words, candidates_.panels(), candidates_.offsets(),
                            candidates_.n_panels(), screens.get());
      for (int64_t j = 0; j < count; ++j) {
        uint64_t bits = all;
        if (candidates_.screenable()) bits &= kernels_.reaching(screens.get() + j * height, least_.get() + first);
        for (; bits != 0; bits &= bits - 1) {
          const int64_t row = first + __builtin_ctzll(bits);
          const double away = kernels_.row_distance(rows_, row, candidates_.row(j), y.get());
          if (away < nearest_[static_cast<size_t>(row)]) nearer[j].push_back({row, away});
        }
      }
    }
    for (int64_t j = 0; j < count; ++j) {
      int64_t gain = 0;
      for (const Nearer& one : nearer[j]) gain += potential_[static_cast<size_t>(one.row)] - integer(one.row, one.away);
      gains[static_cast<size_t>(j)] += gain;
    }
  }

  // The first rows that are not chosen.
  void fill_up(int64_t chosen) {
    std::vector<bool> taken(static_cast<size_t>(rows_.count));
    for (int64_t i = 0; i < chosen; ++i) taken[static_cast<size_t>(start_.ids[i])] = true;
    for (int64_t row = 0; chosen < start_.count; ++row)
      if (!taken[static_cast<size_t>(row)]) start_.ids[chosen++] = row;
  }

  const Start& start_;
  const Rows& rows_;
  const int threads_;
  const Kernels& kernels_;
  const Packing packing_;
  const std::vector<double> zeros_;
  const Rows framed_;  // the frame of candidates that come less the origin
  Centroids candidates_;
  const int64_t block_, n_blocks_;  // rows of a task
  std::vector<double> nearest_;
  std::vector<int64_t> potential_, totals_;   // of rows, of blocks
  std::vector<std::vector<Nearer>> nearer_;   // [blocks][candidates]
  Buffer<uint32_t> packed_;                   // [tile][words][tile_rows]
  Buffer<float> norms_, least_;               // of rows
};

}  // namespace

void plus_plus(const std::vector<Start>& starts, const Execution& how) {
  std::vector<int64_t> first{0};
  for (const Start& one : starts) first.push_back(first.back() + one.rows.count);
  in_one_region(how.threads, [&] {
    for_each_problem(first, how, [&](int64_t b, const Execution& part) {
      PlusPlus(starts[static_cast<size_t>(b)], part).run();
    });
  });
}

}  // namespace adaptinf::kmeans
