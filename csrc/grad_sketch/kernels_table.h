// Included by kernels_cpu.cpp once per instruction set, in a namespace of that set, with ADAPTINF_VECTOR_BYTES set.

#include "kernels_vector.h"

#include "kernels_gradient.h"
#include "kernels_sketch.h"

const Kernels& table() {
  static const Kernels kernels{kMaxRows, widen, pack, multiply, row_products, precondition, scale,
                               squared_norm, sjlt, sign_words, turn_words, sign_panel, column_sums};
  return kernels;
}

#undef ADAPTINF_VECTOR_BYTES
