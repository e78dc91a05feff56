// softmax(scale Q K^T) V and its gradients, for rows of some hundreds of tokens at most: the keys of a head stay in the
// cache, so nothing is exchanged between tasks and no tile is ever loaded twice.
#pragma once

#include <cstdint>

#include "../common/cpu_features.h"

namespace adaptinf::attention {

// [batch, heads, tokens, width] somewhere in memory, float32; a row is contiguous.
struct Heads {
  float* data;
  int64_t batch_stride, head_stride, row_stride;

  float* head(int64_t batch, int64_t head) const { return data + batch * batch_stride + head * head_stride; }
};

// [batch, heads, queries, keys]: 1 where a query sees a key. Batch and heads may repeat (stride 0). Null: all are seen.
struct Mask {
  const int8_t* data;
  int64_t batch_stride, head_stride, row_stride;
};

struct Problem {
  int64_t batch, heads, key_heads, queries, keys, width, value_width;
  Heads query, key, value;
  Mask mask;
  bool causal;  // query t sees the keys 0 .. t
  float scale;
};

// `out` [batch, heads, queries, value_width]; `log_sums` [batch, heads, queries], contiguous: log sum_j exp(score_j), minus
// infinity for a query that sees no key, whose output is zero.
void forward(const Problem& problem, const Heads& out, float* log_sums, int threads, CpuLevel level);

struct Gradients {
  Heads query, key, value;
};

void backward(const Problem& problem, const float* log_sums, const Heads& out_gradient, const Gradients& gradients, int threads,
              CpuLevel level);

}  // namespace adaptinf::attention
