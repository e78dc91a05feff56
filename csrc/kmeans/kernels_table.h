// Included once per instruction set, in a namespace of its own: ADAPTINF_VECTOR_BYTES says how wide its registers are,
// ADAPTINF_BRAIN whether screens are products of bfloat16.

#include "kernels_exact.h"
#include "kernels_screen.h"
#include "kernels_rows.h"

const Kernels& table() {
  static const Kernels kernels{kTileRows, ADAPTINF_BRAIN != 0, load, to_unit, dot, squared_distance, two_dots, row_distance, mean, move, add_columns,
                               extend, pack, pack_row, transpose, screen, screen_all, reaching,
                               decide, bound, loosen, hash, differing};
  return kernels;
}

#undef ADAPTINF_VECTOR_BYTES
#undef ADAPTINF_BRAIN
