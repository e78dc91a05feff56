// How the work of token_scores is cut, and what is held meanwhile.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "token_scores.h"

namespace adaptinf::token_sweep {

constexpr int kMaxGroup = 32;              // tokens side by side in the widest instruction set
constexpr int64_t kPadding = 12;           // rows of the head, and its depth, are padded to a multiple
constexpr int64_t kPanel = 20 * kPadding;  // rows of the head at a time; with kDepth of their columns they fit in L2
constexpr int64_t kDepth = 24 * kPadding;
constexpr int64_t kBlock = 256;  // tokens that share a pass over the head
constexpr int64_t kChunks = 8;   // parts of the vocabulary that threads may take

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

inline Floats allocate(int64_t count) {
  void* memory = std::aligned_alloc(64, static_cast<size_t>(ceil_div(std::max<int64_t>(count, 1), 16) * 64));
  if (memory == nullptr) throw std::bad_alloc();
  return Floats(static_cast<float*>(memory));
}

// Of one token over the rows v of the head seen so far, its label's left out: the highest logit, and with
// x_v = l_v - peak the sums of exp(x_v), exp(x_v) x_v and exp(x_v)^2.
struct Statistics {
  float peak[kMaxGroup], label[kMaxGroup];
  double sum[kMaxGroup], weighted[kMaxGroup], squares[kMaxGroup];
};

struct Plan {
  int64_t tokens, vocabulary;
  int64_t depth;  // of the head, padded; 0 where hidden holds the logits
  int64_t chunk, chunks;
  bool accumulates;  // whether p W is summed on the way
};

inline Plan make_plan(const TokenScores& scores) {
  Plan plan{};
  plan.tokens = scores.hidden.shape[0];
  plan.vocabulary = scores.weight ? scores.weight->shape[0] : scores.hidden.shape[1];
  plan.depth = scores.weight ? ceil_div(scores.hidden.shape[1], kPadding) * kPadding : 0;
  plan.chunk = ceil_div(ceil_div(plan.vocabulary, kChunks), kPanel) * kPanel;
  plan.chunks = ceil_div(plan.vocabulary, plan.chunk);
  plan.accumulates = scores.weight && scores.grad;
  return plan;
}

// What a block of tokens holds while its chunks are swept: hidden [groups][depth][group], and for each chunk
// statistics [groups] and gradients [groups][depth][group].
struct Block {
  int64_t first, tokens, groups;
  Floats hidden, gradients;
  std::unique_ptr<Statistics[]> statistics;
};

}  // namespace adaptinf::token_sweep
