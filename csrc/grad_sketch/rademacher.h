// Dense random signs: every number of the sketch is the gradient's entries added with independent signs.
#pragma once

#include <vector>

#include "source.h"

namespace adaptinf {

// sketch = sum over the parts.
void sketch_rademacher(const std::vector<Part>& parts, int64_t k, const Output& output, const Kernels& kernels, int threads);

// Samples side by side: register tiles of as equal sizes as can be, [entries][samples of the tile] each.
class SampleTiles {
 public:
  SampleTiles(int64_t samples, int64_t entries, const Kernels& kernels);
  int64_t count() const { return tiles_; }
  int64_t size(int64_t tile) const { return (tile + 1) * samples_ / tiles_ - first(tile); }
  int64_t first(int64_t tile) const { return tile * samples_ / tiles_; }
  const float* entry(int64_t tile, int64_t entry) const { return values_ + first(tile) * entries_ + entry * size(tile); }
  // One sample's entry i at to[i * step].
  struct Column {
    float* to;
    int64_t step;
  };
  Column column(int64_t sample);

 private:
  int64_t samples_, entries_, tiles_;
  Floats memory_;
  float* values_;
};

// Signs of `kPanel` numbers of the sketch, made as they are needed.
class SignRows {
 public:
  // sums [samples][kPanel] += the sketch's numbers `number` on, of the entries whose flat ids begin at `id`.
  void add(PhiloxKey key, int64_t number, uint64_t id, int64_t entries, const SampleTiles& tiles, float* sums,
           const Kernels& kernels);

 private:
  Floats signs_;
};

}  // namespace adaptinf
