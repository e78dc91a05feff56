// The most similar row of each of some columns: a screen of rounded rows with a proven bound on its error, and the exact
// similarity of what the bound leaves open.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "cluster.h"
#include "components.h"

namespace adaptinf::semdedup {

constexpr int64_t kSearchColumns = 256;

struct Best {
  int64_t row = -1;  // the first of the most similar ones
  double similarity = 0;
};

class Search {
 public:
  // `components`, if any, hears of every pair.
  explicit Search(const Cluster& cluster, Components* components = nullptr);

  // Begins anew with distinct rows `first` to `last` as columns, at most kSearchColumns.
  void begin(int64_t first, int64_t last);

  int64_t first() const { return first_; }
  int64_t last() const { return last_; }
  int64_t panels() const { return (last_ - first_ + kernels_.tile_columns - 1) / kernels_.tile_columns; }

  // Every row of ascending `rows` before a column is a candidate for it; columns of panels `from` to `to`.
  void add(const int64_t* rows, int64_t count, int64_t from, int64_t to);

  // Whether a row that was added is more similar to a column than a threshold.
  bool exceeds(int64_t column, double threshold);

  // Decides the columns of a panel one after the other: decided(column, best, stays), where those that stay, unlike any
  // before by the threshold, are candidates for those that follow.
  template <typename Decided>
  void decide(int64_t panel, double threshold, const Decided& decided) {
    std::vector<int64_t> open;  // the others will not stay, whatever else they are alike
    for (int64_t id = panel_first(panel); id < panel_last(panel); ++id)
      if (!exceeds(id, threshold)) open.push_back(id);
    const auto count = static_cast<int64_t>(open.size());
    if (count > 0) {
      load(open.data(), count);
      bound(panel);
    }
    for (int64_t group = 0; group * kernels_.tile_rows < count; ++group)
      screen(panel, group, values_.data() + group * kernels_.tile_rows * kernels_.tile_columns);
    std::vector<int64_t> kept;  // of those that are open
    int64_t next = 0;
    for (int64_t id = panel_first(panel); id < panel_last(panel); ++id) {
      for (const int64_t row : kept)
        consider(id, values_[static_cast<size_t>(row * kernels_.tile_columns + id - panel_first(panel))],
                 open[static_cast<size_t>(row)]);
      const Best found = best(id);
      const bool stays = found.row < 0 || !(found.similarity > threshold);
      if (stays) kept.push_back(next);
      if (next < count && open[static_cast<size_t>(next)] == id) ++next;
      decided(id, found, stays);
    }
  }

  // What was found for a column; decides the candidates that are left.
  Best best(int64_t column);

 private:
  static constexpr int64_t kRows = 384;  // of a chunk; they stay in the second cache
  static constexpr int64_t kCandidates = 16;

  struct Candidate {
    float at_most;  // of the similarity, as the screen counts
    int64_t row;
  };

  // Similarities are counted less `offset` = along + center_square of the column, as the screen gives them.
  struct Column {
    float at_least = 0;   // of the best
    float threshold = 0;  // what reaches it is a candidate
    float edge = 0;       // what reaches it may be above a threshold of the components
    double error = 0, offset = 0;
    int64_t candidates = 0;
    Candidate candidate[kCandidates];
    Best best;
  };

  Column& column(int64_t id) { return columns_[static_cast<size_t>(id - first_)]; }
  int64_t panel_first(int64_t panel) const { return first_ + panel * kernels_.tile_columns; }
  int64_t panel_last(int64_t panel) const { return std::min(last_, panel_first(panel + 1)); }

  void load(const int64_t* rows, int64_t count);
  void bound(int64_t panel);
  void screen(int64_t panel, int64_t group, float* values);
  void consider(int64_t id, float value, int64_t row);
  void raise(int64_t id, double at_least);
  void settle(int64_t id);
  double exact(int64_t id, int64_t row);

  const Cluster& cluster_;
  const Kernels& kernels_;
  Components* const components_;
  Scratch scratch_;
  std::vector<float> unit_, other_unit_;  // of a column and of a row
  int64_t unit_of_ = -1, other_of_ = -1;

  int64_t first_ = 0, last_ = 0;
  std::vector<Column> columns_;
  std::vector<uint32_t> panels_;   // [panels][words][tile_columns]
  std::vector<float> thresholds_;  // per column, infinity for those beyond the end

  int64_t count_ = 0;  // rows of the chunk, and the largest numbers of all of them
  double length_ = 0, rounding_ = 0, along_ = 0;
  std::vector<uint32_t> chunk_;  // [groups][words / kQuad][tile_rows][kQuad]
  std::vector<float> bias_;
  std::vector<float> values_;  // of as many tiles as a panel has among its own rows
  uint32_t hits_[kMaxTileRows] = {};
};

}  // namespace adaptinf::semdedup
