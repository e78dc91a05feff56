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
constexpr double kFar = std::numeric_limits<double>::infinity();

bool wins(double score, int64_t id, double against, int64_t other) {
  return score < against || (score == against && id < other);
}

}  // namespace

Assignment::Scratch::Scratch(const Kernels& kernels, int64_t words, int64_t padded, int64_t n_tiles, int64_t centroids)
    : gathered(n_tiles * words * kernels.tile_rows), again(words * kernels.tile_rows),
      all(centroids * kernels.tile_rows), y(padded), candidates(static_cast<size_t>(kernels.tile_rows)) {}

Assignment::Assignment(const Kernels& kernels, const Packing& packing, const Rows& rows, const Centroids& centroids)
    : kernels_(kernels), packing_(packing), rows_(rows), centroids_(centroids),
      tiles_(std::clamp<int64_t>(kTileWords / (packing.words * kernels.tile_rows), 1, kMostTiles)) {}

Pool<Assignment::Scratch>::Loan Assignment::borrow() {
  return pool_.borrow(kernels_, packing_.words, rows_.padded, tiles_, centroids_.n_panels() * kPanel);
}

void Assignment::gather(const int64_t* ids, const uint32_t* const* packed, int64_t count, Scratch& scratch) const {
  const int64_t height = kernels_.tile_rows;
  scratch.tiles.clear();
  for (int64_t first = 0; first < count; first += height) {
    const uint32_t* rows[kMaxTileRows];
    for (int64_t r = 0; r < height; ++r) rows[r] = packed[first + r < count ? first + r : first];
    uint32_t* words = scratch.gathered.get() + first * packing_.words;
    kernels_.transpose(rows, packing_.words, words);
    scratch.tiles.push_back({words, ids + first, 0, ~uint64_t{0} >> (64 - std::min(height, count - first))});
  }
}

void Assignment::label(Scratch& scratch) {
  scratch.products = 0;
  search(scratch);
  products_ += scratch.products;
}

void Assignment::search(Scratch& scratch) const {
  const std::vector<Tile>& tiles = scratch.tiles;
  scratch.found.resize(tiles.size()), scratch.known.resize(tiles.size()), scratch.tops.resize(tiles.size());
  if (!centroids_.screenable()) {
    for (size_t t = 0; t < tiles.size(); ++t)
      brute(tiles[t], scratch, scratch.found[t]), scratch.known[t] = tiles[t].wanted;
    return;
  }
  scratch.products += static_cast<int64_t>(tiles.size()) * kernels_.tile_rows * centroids_.count();
  const int64_t words = packing_.words, group = std::max<int64_t>(1, kPanelWords / (kPanel * words));
  for (int64_t panel = 0; panel < centroids_.n_panels(); panel += group)
    for (size_t t = 0; t < tiles.size(); ++t)
      kernels_.screen(tiles[t].words, words, centroids_.panels(), centroids_.offsets(), panel,
                      std::min(panel + group, centroids_.n_panels()), scratch.tops[t]);

  scratch.open.clear();
  const Shares shares = centroids_.shares();
  for (size_t t = 0; t < tiles.size(); ++t) {
    const uint32_t* slack = tiles[t].words + packing_.slack_word() * kernels_.tile_rows;
    const uint64_t proven = kernels_.decide(scratch.tops[t], slack, shares, scratch.found[t]);
    const uint64_t unsure = tiles[t].wanted & ~proven;
    for (uint64_t bits = unsure; bits != 0; bits &= bits - 1) rows_.prefetch(tiles[t].id(__builtin_ctzll(bits)));
    for (uint64_t bits = unsure; bits != 0; bits &= bits - 1)
      decide_pair(tiles[t], __builtin_ctzll(bits), scratch.tops[t], static_cast<int64_t>(t), scratch);
    scratch.known[t] = tiles[t].wanted | proven;
  }
  decide_lists(scratch);
}

// Where no more than two candidates are left, the score decides; other rows are left open.
void Assignment::decide_pair(const Tile& tile, int64_t r, const Tops& tops, int64_t place, Scratch& scratch) const {
  Found& found = scratch.found[static_cast<size_t>(place)];
  const int64_t one = tops.first_id[r], two = tops.second_id[r];
  const double first = tops.first[r], second = tops.second[r], excess = 2 * centroids_.error(slack_of(tile, r), two);
  const double least = std::max(first - found.excess[r], second - excess);
  if (!(tops.third[r] < least)) {
    scratch.open.push_back({place, r, least});
    return;
  }
  scratch.products += 2;
  double scores[2];
  centroids_.scores(rows_, tile.id(r), one, two, scores, scratch.y.get());
  const bool swap = wins(scores[1], two, scores[0], one);
  found.label[r] = static_cast<int32_t>(swap ? two : one);
  settle(scores[swap], std::max(screened(scores[!swap]), tops.third[r]), r, found);
}

// Takes the score of the label, and what bounds those of all others.
void Assignment::settle(double score, float others, int64_t r, Found& found) const {
  found.top[r] = screened(score), found.others[r] = others;
  found.excess[r] = std::fabs(found.top[r]) * 0x1p-22f;  // of rounding up
}

Slack Assignment::slack_of(const Tile& tile, int64_t r) const {
  const uint32_t* at = tile.words + packing_.slack_word() * kernels_.tile_rows + r;
  return packing_.slack(at, kernels_.tile_rows);
}

void Assignment::decide_lists(Scratch& scratch) const {
  const int64_t height = kernels_.tile_rows, words = packing_.words, n_open = static_cast<int64_t>(scratch.open.size());
  for (int64_t first = 0; first < n_open; first += height) {
    const int64_t rows = std::min(height, n_open - first);
    const Scratch::Open* open = scratch.open.data() + first;
    float least[kMaxTileRows];
    std::fill(least, least + kMaxTileRows, std::numeric_limits<float>::infinity());
    for (int64_t r = 0; r < rows; ++r) {
      const uint32_t* from = scratch.tiles[static_cast<size_t>(open[r].tile)].words + open[r].row;
      for (int64_t word = 0; word < words; ++word) scratch.again[word * height + r] = from[word * height];
      least[r] = rounded_down(open[r].least);
      scratch.candidates[static_cast<size_t>(r)].clear();
    }
    kernels_.screen_all(scratch.again.get(), words, centroids_.panels(), centroids_.offsets(), centroids_.n_panels(),
                        scratch.all.get());
    scratch.products += height * centroids_.count();
    for (int64_t j = 0; j < centroids_.count(); ++j)
      for (uint64_t bits = kernels_.reaching(scratch.all.get() + j * height, least); bits != 0; bits &= bits - 1)
        scratch.candidates[static_cast<size_t>(__builtin_ctzll(bits))].push_back(static_cast<int32_t>(j));
    for (int64_t r = 0; r < rows; ++r) {
      const Tile& tile = scratch.tiles[static_cast<size_t>(open[r].tile)];
      kernels_.load(rows_, tile.id(open[r].row), scratch.y.get());
      const std::vector<int32_t>& candidates = scratch.candidates[static_cast<size_t>(r)];
      scratch.products += static_cast<int64_t>(candidates.size());
      int32_t label = -1;
      double best = kFar, second = kFar;
      for (const int32_t j : candidates) {
        const double score = centroids_.score(scratch.y.get(), j);
        if (label < 0 || score < best) label = j, second = best, best = score;
        else second = std::min(second, score);
      }
      const bool all = static_cast<int64_t>(candidates.size()) == centroids_.count();
      Found& found = scratch.found[static_cast<size_t>(open[r].tile)];
      found.label[open[r].row] = label;
      settle(best, std::max(screened(second), all ? kNone : least[r]), open[r].row, found);
    }
  }
}

void Assignment::brute(const Tile& tile, Scratch& scratch, Found& found) const {
  constexpr float kUnknown = std::numeric_limits<float>::infinity();
  for (uint64_t bits = tile.wanted; bits != 0; bits &= bits - 1) {
    const int64_t r = __builtin_ctzll(bits);
    scratch.products += centroids_.count();
    kernels_.load(rows_, tile.id(r), scratch.y.get());
    int32_t label = 0;
    double best = centroids_.score(scratch.y.get(), 0);
    for (int32_t j = 1; j < centroids_.count(); ++j) {
      const double score = centroids_.score(scratch.y.get(), j);
      if (score < best) label = j, best = score;
    }
    found.label[r] = label, found.top[r] = -kUnknown, found.excess[r] = 0, found.others[r] = kUnknown;
  }
}

void Assignment::top(const int64_t* ids, const uint32_t* const* packed, int64_t count, int64_t m, int64_t* out) {
  const auto loan = borrow();
  Scratch& scratch = *loan;
  const int64_t height = kernels_.tile_rows, n = centroids_.count();
  std::vector<std::pair<float, int32_t>> found;
  std::vector<std::pair<double, int32_t>> scored;
  for (int64_t first = 0; first < count; first += height) {
    const int64_t rows = std::min(height, count - first);
    gather(ids + first, packed + first, rows, scratch);
    if (centroids_.screenable())
      kernels_.screen_all(scratch.gathered.get(), packing_.words, centroids_.panels(), centroids_.offsets(),
                          centroids_.n_panels(), scratch.all.get());
    for (int64_t r = 0; r < rows; ++r) {
      const Slack slack = slack_of(scratch.tiles[0], r);
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
