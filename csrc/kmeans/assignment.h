// Which centroid is nearest to each row: screened at low precision, decided by float64 scores where the screen leaves more
// than one candidate. See packing.h for the certificate.
#pragma once

#include <atomic>
#include <vector>

#include "centroids.h"

namespace adaptinf::kmeans {

// What a screen says of a row: its label's upper bound U and that bound's excess, and the highest U of the others.
struct Screened {
  int64_t label;
  double top, excess, others;
};

// How many rows of a pass were decided how.
struct Tally {
  std::atomic<int64_t> pairs{0}, lists{0};
};

class Assignment {
 public:
  Assignment(const Kernels& kernels, const Packing& packing, const Rows& rows, const Centroids& centroids, bool fast);

  // What the rows of a task are read into.
  struct Scratch {
    Scratch(const Kernels& kernels, int64_t words, int64_t padded, int64_t tiles, int64_t centroids);
    Buffer<uint32_t> tiles;    // [tiles][words][tile_rows]
    std::vector<Tops> tops;
    Buffer<float> all;         // [centroids][tile_rows]
    Buffer<double> y;          // [padded]
    std::vector<int64_t> undecided;
    std::vector<double> least;                     // of each undecided row: what a candidate must reach
    std::vector<std::vector<int32_t>> candidates;  // of each row of a tile
    Buffer<uint32_t> packed;
  };

  // Rows that a task should have: tiles of them stay in the second-level cache.
  int64_t block() const { return tiles_ * kernels_.tile_rows; }

  // Labels of `count` rows: number ids[i], packed at packed[i]; `out` takes each as it is found.
  void label(const int64_t* ids, const uint32_t* const* packed, int64_t count, Screened* out);

  // The m centroids of the lowest scores, best first, ties to the lower id; ids [count][m].
  void top(const int64_t* ids, const uint32_t* const* packed, int64_t count, int64_t m, int64_t* out);

 private:
  Pool<Scratch>::Loan borrow();
  int64_t fill(const uint32_t* const* packed, int64_t count, Scratch& scratch) const;
  void brute(int64_t id, Scratch& scratch, Screened& out) const;
  void decide_lists(const int64_t* ids, const uint32_t* const* packed, Scratch& scratch, Screened* out) const;
  void screen_all(const uint32_t* const* packed, int64_t count, Scratch& scratch) const;

  const Kernels& kernels_;
  const Packing& packing_;
  const Rows& rows_;
  const Centroids& centroids_;
  const bool fast_;
  int64_t tiles_;
  Pool<Scratch> pool_;
};

}  // namespace adaptinf::kmeans
