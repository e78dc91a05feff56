#include "assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace adaptinf::kmeans {
namespace {

constexpr int64_t kTileWords = 100 * 1024;  // of the tiles of a task: less than half of a second-level cache
constexpr int64_t kMostTiles = 16;
constexpr int64_t kPanelWords = 4 * 1024;  // of the panels that a tile meets in a row: half of a first-level cache
constexpr float kNone = -std::numeric_limits<float>::infinity();

bool wins(double score, int64_t id, double against, int64_t other) {
  return score < against || (score == against && id < other);
}

}  // namespace

Assignment::Scratch::Scratch(const Kernels& kernels, int64_t words, int64_t padded, int64_t n_tiles, int64_t centroids)
    : tiles(n_tiles * words * kernels.tile_rows), tops(static_cast<size_t>(n_tiles)), all(centroids * kernels.tile_rows),
      y(padded), candidates(static_cast<size_t>(kernels.tile_rows)) {}

Assignment::Assignment(const Kernels& kernels, const Packing& packing, const Rows& rows, const Centroids& centroids,
                       bool fast)
    : kernels_(kernels), packing_(packing), rows_(rows), centroids_(centroids), fast_(fast),
      tiles_(std::clamp<int64_t>(kTileWords / (packing.words * kernels.tile_rows), 1, kMostTiles)) {}

Pool<Assignment::Scratch>::Loan Assignment::borrow() {
  return pool_.borrow(kernels_, packing_.words, rows_.padded, tiles_, centroids_.n_panels() * kPanel);
}

int64_t Assignment::fill(const uint32_t* const* packed, int64_t count, Scratch& scratch) const {
  const int64_t height = kernels_.tile_rows;
  int64_t tile = 0;
  for (int64_t first = 0; first < count; first += height, ++tile) {
    const uint32_t* rows[kMaxTileRows];
    for (int64_t r = 0; r < height; ++r) rows[r] = packed[first + r < count ? first + r : first];
    kernels_.transpose(rows, packing_.words, scratch.tiles.get() + tile * packing_.words * height);
  }
  return tile;
}

void Assignment::label(const int64_t* ids, const uint32_t* const* packed, int64_t count, Screened* out) {
  const auto loan = borrow();
  Scratch& scratch = *loan;
  if (!centroids_.screenable()) {
    for (int64_t i = 0; i < count; ++i) brute(ids[i], scratch, out[i]);
    return;
  }
  const int64_t height = kernels_.tile_rows, tiles = fill(packed, count, scratch), words = packing_.words;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    Tops& tops = scratch.tops[static_cast<size_t>(tile)];
    for (float* part : {tops.first, tops.second, tops.third}) std::fill(part, part + kMaxTileRows, kNone);
    for (int32_t* part : {tops.first_id, tops.second_id}) std::fill(part, part + kMaxTileRows, 0);
  }
  const int64_t group = std::max<int64_t>(1, kPanelWords / (kPanel * words));
  for (int64_t panel = 0; panel < centroids_.n_panels(); panel += group)
    for (int64_t tile = 0; tile < tiles; ++tile)
      kernels_.screen(scratch.tiles.get() + tile * words * height, words, centroids_.panels(), centroids_.offsets(), panel,
                      std::min(panel + group, centroids_.n_panels()), scratch.tops[static_cast<size_t>(tile)]);

  scratch.undecided.clear(), scratch.least.clear();
  for (int64_t i = 0; i < count; ++i) {
    const Tops& tops = scratch.tops[static_cast<size_t>(i / height)];
    const int64_t r = i % height, one = tops.first_id[r], two = tops.second_id[r];
    const Slack slack = packing_.slack(packed[i]);
    const double excess = 2 * centroids_.error(slack, one), top = tops.first[r], second = tops.second[r];
    out[i] = {one, top, excess, second};
    if (second < top - excess || (fast_ && top > kNone)) continue;
    const double second_excess = 2 * centroids_.error(slack, two), least = std::max(top - excess, second - second_excess);
    if (tops.third[r] < least) {
      kernels_.load(rows_, ids[i], scratch.y.get());
      if (wins(centroids_.score(scratch.y.get(), two), two, centroids_.score(scratch.y.get(), one), one))
        out[i] = {two, second, second_excess, top};
    } else {
      scratch.undecided.push_back(i), scratch.least.push_back(least);
    }
  }
  decide_lists(ids, packed, scratch, out);
}

void Assignment::screen_all(const uint32_t* const* packed, int64_t count, Scratch& scratch) const {
  fill(packed, count, scratch);
  kernels_.screen_all(scratch.tiles.get(), packing_.words, centroids_.panels(), centroids_.offsets(), centroids_.n_panels(),
                      scratch.all.get());
}

void Assignment::decide_lists(const int64_t* ids, const uint32_t* const* packed, Scratch& scratch, Screened* out) const {
  const int64_t height = kernels_.tile_rows, open = static_cast<int64_t>(scratch.undecided.size());
  for (int64_t first = 0; first < open; first += height) {
    const int64_t rows = std::min(height, open - first);
    const int64_t* which = scratch.undecided.data() + first;
    const uint32_t* chosen[kMaxTileRows];
    float least[kMaxTileRows];
    std::fill(least, least + kMaxTileRows, std::numeric_limits<float>::infinity());
    for (int64_t r = 0; r < rows; ++r) {
      chosen[r] = packed[which[r]];
      least[r] = rounded_down(scratch.least[static_cast<size_t>(first + r)]);
      scratch.candidates[static_cast<size_t>(r)].clear();
    }
    screen_all(chosen, rows, scratch);
    for (int64_t j = 0; j < centroids_.count(); ++j)
      for (uint64_t bits = kernels_.reaching(scratch.all.get() + j * height, least); bits != 0; bits &= bits - 1)
        scratch.candidates[static_cast<size_t>(__builtin_ctzll(bits))].push_back(static_cast<int32_t>(j));
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = which[r];
      kernels_.load(rows_, ids[i], scratch.y.get());
      int64_t label = -1;
      double best = 0;
      for (const int64_t j : scratch.candidates[static_cast<size_t>(r)]) {
        const double score = centroids_.score(scratch.y.get(), j);
        if (label < 0 || score < best) label = j, best = score;
      }
      const bool same = label == out[i].label;
      out[i] = {label, scratch.all[label * height + r], 2 * centroids_.error(packing_.slack(packed[i]), label),
                same ? out[i].others : out[i].top};
    }
  }
}

void Assignment::brute(int64_t id, Scratch& scratch, Screened& out) const {
  kernels_.load(rows_, id, scratch.y.get());
  int64_t label = 0;
  double best = centroids_.score(scratch.y.get(), 0);
  for (int64_t j = 1; j < centroids_.count(); ++j) {
    const double score = centroids_.score(scratch.y.get(), j);
    if (score < best) label = j, best = score;
  }
  const double unknown = std::numeric_limits<double>::infinity();
  out = {label, -unknown, 0, unknown};
}

void Assignment::top(const int64_t* ids, const uint32_t* const* packed, int64_t count, int64_t m, int64_t* out) {
  const auto loan = borrow();
  Scratch& scratch = *loan;
  const int64_t height = kernels_.tile_rows, n = centroids_.count();
  std::vector<std::pair<float, int32_t>> found;
  std::vector<std::pair<double, int32_t>> scored;
  for (int64_t first = 0; first < count; first += height) {
    const int64_t rows = std::min(height, count - first);
    if (centroids_.screenable()) screen_all(packed + first, rows, scratch);
    for (int64_t r = 0; r < rows; ++r) {
      const Slack slack = packing_.slack(packed[first + r]);
      scored.clear();
      if (!centroids_.screenable() || std::isnan(slack.a)) {
        for (int64_t j = 0; j < n; ++j) scored.emplace_back(0, static_cast<int32_t>(j));
      } else {
        found.clear();
        for (int64_t j = 0; j < n; ++j) found.emplace_back(-scratch.all[j * height + r], static_cast<int32_t>(j));
        std::nth_element(found.begin(), found.begin() + (m - 1), found.end());
        double least = std::numeric_limits<double>::infinity();  // m scores are surely no worse
        for (int64_t i = 0; i < m; ++i)
          least = std::min(least, -found[static_cast<size_t>(i)].first - 2 * centroids_.error(slack, found[static_cast<size_t>(i)].second));
        for (const auto& [value, j] : found)
          if (-value >= least) scored.emplace_back(0, j);
      }
      kernels_.load(rows_, ids[first + r], scratch.y.get());
      for (auto& [score, j] : scored) score = centroids_.score(scratch.y.get(), j);
      std::partial_sort(scored.begin(), scored.begin() + m, scored.end());
      for (int64_t i = 0; i < m; ++i) out[(first + r) * m + i] = scored[static_cast<size_t>(i)].second;
    }
  }
}

}  // namespace adaptinf::kmeans
