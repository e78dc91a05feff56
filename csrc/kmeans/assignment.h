// Which centroid is nearest to each row: screened at low precision, decided by float64 scores where the screen leaves more
// than one candidate. See packing.h for the certificate.
#pragma once

#include <atomic>
#include <vector>

#include "centroids.h"

namespace adaptinf::kmeans {

// Rows of a packed tile [words][tile_rows].
struct Tile {
  const uint32_t* words;
  const int64_t* ids;  // whose numbers they are; or null: `first` and those that follow
  int64_t first;
  uint64_t wanted;     // bit r: whether row r's label is asked for

  int64_t id(int64_t r) const { return ids == nullptr ? first + r : ids[r]; }
};

class Assignment {
 public:
  Assignment(const Kernels& kernels, const Packing& packing, const Rows& rows, const Centroids& centroids);

  // The tiles of a task, and what is found of their rows.
  struct Scratch {
    Scratch(const Kernels& kernels, int64_t words, int64_t padded, int64_t tiles, int64_t centroids);
    std::vector<Tile> tiles;
    std::vector<Found> found;     // of each tile
    std::vector<uint64_t> known;  // of each tile, bit r: whether `found` holds for row r; wherever it was asked for
    std::vector<Tops> tops;
    Buffer<uint32_t> gathered, again;  // [tiles][words][tile_rows]; one tile of open rows
    Buffer<float> all;                 // [centroids][tile_rows]
    Buffer<double> y;                  // [padded]
    struct Open {
      int64_t tile, row;
      double least;  // what a candidate's screen reaches
    };
    std::vector<Open> open;
    std::vector<std::vector<int32_t>> candidates;  // of each row of a tile
    int64_t products;                              // of label()
  };
  Pool<Scratch>::Loan borrow();

  // Rows that a task should have: tiles of them stay in the second-level cache.
  int64_t block() const { return tiles_ * kernels_.tile_rows; }

  // Makes tiles of `count` rows, at most block(): number ids[i], packed at packed[i].
  void gather(const int64_t* ids, const uint32_t* const* packed, int64_t count, Scratch& scratch) const;

  // Fills `found` and `known` for the tiles of `scratch`.
  void label(Scratch& scratch);

  // Products of a row with a centroid that label() has computed, screens of whole tiles and scores.
  int64_t products() const { return products_; }

  // The m centroids of the lowest scores, best first, ties to the lower id; ids [count][m].
  void top(const int64_t* ids, const uint32_t* const* packed, int64_t count, int64_t m, int64_t* out);

 private:
  void search(Scratch& scratch) const;
  Slack slack_of(const Tile& tile, int64_t r) const;
  void decide_pair(const Tile& tile, int64_t r, const Tops& tops, int64_t place, Scratch& scratch) const;
  void settle(double score, float others, int64_t r, Found& found) const;
  // A score as the screen gives it, not below.
  float screened(double score) const { return rounded_up(-score * packing_.scale() * packing_.scale()); }
  void decide_lists(Scratch& scratch) const;
  void brute(const Tile& tile, Scratch& scratch, Found& found) const;

  const Kernels& kernels_;
  const Packing& packing_;
  const Rows& rows_;
  const Centroids& centroids_;
  int64_t tiles_;
  std::atomic<int64_t> products_{0};
  Pool<Scratch> pool_;
};

}  // namespace adaptinf::kmeans
