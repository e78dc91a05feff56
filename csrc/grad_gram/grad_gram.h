// Inner products of per-sample weight gradients without the gradients; see kernels/adaptinf_kernels/grad_gram/README.md.
#pragma once

#include <optional>
#include <vector>

#include "../grad_sketch/source.h"

namespace adaptinf {

// Sample b has the rows bounds[b] to bounds[b + 1] of both matrices; bounds run from 0 to all of them and never fall.
struct Samples {
  Matrix x, grad_out;
  std::vector<int64_t> bounds;
};

// out [b * step + c] = sum over tokens t of sample b of `rows`, u of sample c of `columns` (or of `rows`), of
// (x_t . x_u) (g_t . g_u). The bits of an entry depend on its two samples and the instruction set alone, not on their order.
void grad_gram(const Samples& rows, const std::optional<Samples>& columns, float* out, int64_t step, const Kernels& kernels,
               int threads);

}  // namespace adaptinf
