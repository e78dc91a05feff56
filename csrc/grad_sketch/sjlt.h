// sjlt sketches of gradients: whole tiles of a weight are laid onto slices of the result; kernels/adaptinf_kernels/sketch.
#pragma once

#include <vector>

#include "source.h"

namespace adaptinf {

struct Sjlt {
  int64_t k, slices, tile_rows, tile_columns;  // slices * tile_rows * tile_columns = k
};

// sketch = sum over the parts.
void sketch_sjlt(const std::vector<Part>& parts, const Sjlt& sketch, const Output& output, const Kernels& kernels,
                 int threads);

// What a block of a parameter needs of the random matrix: the signs of its entries and the turns of its tiles.
class SjltTables {
 public:
  // Rows of the scalar side by their ids (rising), columns `column` on of the vector side; `column` is a multiple of 128,
  // with `transposed` the first id is a multiple of 128 and the ids have no gap.
  void make(const Sjlt& sketch, PhiloxKey key, bool transposed, const std::vector<uint32_t>& ids, int64_t column,
            int64_t columns, const Kernels& kernels);
  // The panel at that column; values are still to be set.
  SjltPanel panel(int64_t column, int64_t columns) const;

 private:
  void make_runs(const std::vector<uint32_t>& ids);
  void make_turns(PhiloxKey key, const std::vector<uint32_t>& ids, const Kernels& kernels);
  void make_signs(PhiloxKey key, const std::vector<uint32_t>& ids, int64_t columns, const Kernels& kernels);
  void make_transposed_signs(PhiloxKey key, const std::vector<uint32_t>& ids, int64_t columns, const Kernels& kernels);

  Sjlt sketch_{};
  bool transposed_ = false;
  int64_t tile_scalar_ = 1, tile_vector_ = 1, rows_ = 0, column_ = 0, first_tile_ = 0, n_tiles_ = 0, panels_ = 0;
  std::vector<Run> runs_;
  std::vector<Turn> turns_;
  std::vector<uint32_t> signs_;  // [slice][panel][row]
};

// Floats of one sample's accumulators.
int64_t sjlt_accumulators(const Sjlt& sketch, bool transposed);

// out [k] += accumulators.
void add_sjlt(const Sjlt& sketch, bool transposed, const float* accumulators, float* out);

}  // namespace adaptinf
