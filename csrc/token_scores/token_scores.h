// Scores of tokens from hidden states and a head, without the matrix of logits. The formulas are in
// kernels/adaptinf_kernels/token_scores/README.md.
#pragma once

#include <cstdint>
#include <optional>

#include "../common/cpu_features.h"
#include "../common/tensor_view.h"

namespace adaptinf {

struct TokenScores {
  TensorView hidden;                 // [T, d] float32, float16 or bfloat16; without weight these are the logits [T, V]
  std::optional<TensorView> weight;  // [V, d], likewise
  std::optional<TensorView> bias;    // [V], likewise
  const int64_t* labels;             // [T]; a negative one scores nothing but entropy
  float *nll, *entropy, *el2n_sq, *margin;  // [T] each
  std::optional<TensorView> grad;           // [T, d] float32: d nll / d hidden
};

// The same bits for every number of threads, and for a token whatever its neighbours are.
void token_scores_cpu(const TokenScores& scores, int threads, CpuLevel level);

}  // namespace adaptinf
