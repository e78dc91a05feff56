// One sweep over the vocabulary, as in flash attention. Work is cut along fixed lines: the vocabulary into chunks, a chunk
// into panels of rows of the head, a panel into stretches of its depth. A token is a vector lane, so its sums never meet
// those of another; blocks of tokens and threads may fall as they like.
#include "token_scores.h"

#include <vector>

#include "../common/parallel.h"
#include "brain_tiles.h"
#include "finish.h"
#include "float_tiles.h"
#include "sweep.h"

namespace adaptinf {

using namespace token_sweep;

namespace {

// Hidden states of one group of tokens as Tiles wants them, zeros for those beyond the end.
template <class Tiles>
ADAPTINF_ALWAYS void transpose_body(const TokenScores& scores, int64_t first, int64_t last, int64_t depth, float* target) {
  std::fill(target, target + depth * Tiles::kGroup, 0.0f);
  float values[kDepth];
  const int64_t width = scores.hidden.shape[1];
  for (int64_t token = first; token < last; ++token)
    for (int64_t column = 0; column < width; column += kDepth) {
      const int64_t count = std::min(kDepth, width - column);
      widen(scores.hidden, token, column, count, values);
      Tiles::put_token(values, token - first, column, count, target);
    }
}

// The three steps, compiled for an instruction set that computes `group` tokens side by side.
struct Steps {
  int64_t group;
  void (*transpose)(const TokenScores&, int64_t first, int64_t last, int64_t depth, float* target);
  void (*sweep)(const TokenScores&, const Plan&, const Block&, int64_t chunk);
  void (*finish)(const TokenScores&, const Plan&, const Block&, int64_t group);
};

#define ADAPTINF_STEPS(NAME, TARGET, ...)                                                                              \
  TARGET void transpose_##NAME(const TokenScores& scores, int64_t first, int64_t last, int64_t depth, float* target) { \
    transpose_body<__VA_ARGS__>(scores, first, last, depth, target);                                                   \
  }                                                                                                                    \
  TARGET void sweep_##NAME(const TokenScores& scores, const Plan& plan, const Block& block, int64_t chunk) {           \
    sweep_body<__VA_ARGS__>(scores, plan, block, chunk);                                                               \
  }                                                                                                                    \
  TARGET void finish_##NAME(const TokenScores& scores, const Plan& plan, const Block& block, int64_t group) {          \
    finish_body<__VA_ARGS__::kGroup / 2>(scores, plan, block, group);                                                  \
  }                                                                                                                    \
  constexpr Steps k_##NAME{__VA_ARGS__::kGroup, transpose_##NAME, sweep_##NAME, finish_##NAME};

ADAPTINF_STEPS(portable, , FloatTiles<4, 6>)
#if defined(__x86_64__)
ADAPTINF_STEPS(avx2, __attribute__((target("avx2,fma"))), FloatTiles<8, 6>)
ADAPTINF_STEPS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), FloatTiles<16, 12>)
ADAPTINF_STEPS(avx512_bf16, ADAPTINF_AVX512_BF16, BrainTiles)
#endif

const Steps& steps_for(const TokenScores& scores, CpuLevel level) {
#if defined(__x86_64__)
  const bool brain = scores.hidden.dtype == DType::bfloat16 && scores.weight && scores.weight->dtype == DType::bfloat16;
  if (level == CpuLevel::avx512) return brain && has_avx512_bf16() ? k_avx512_bf16 : k_avx512;
  if (level == CpuLevel::avx2) return k_avx2;
#endif
  (void)scores, (void)level;
  return k_portable;
}

}  // namespace

void token_scores_cpu(const TokenScores& scores, int threads, CpuLevel level) {
  const Plan plan = make_plan(scores);
  const Steps& steps = steps_for(scores, level);
  const int64_t blocks = ceil_div(plan.tokens, kBlock), groups = kBlock / steps.group;
  const int64_t wave = std::max<int64_t>(1, ceil_div(2 * threads, plan.chunks));
  for (int64_t start = 0; start < blocks; start += wave) {
    std::vector<Block> running(static_cast<size_t>(std::min(wave, blocks - start)));
    for (size_t i = 0; i < running.size(); ++i) {
      Block& block = running[i];
      block.first = (start + static_cast<int64_t>(i)) * kBlock;
      block.tokens = std::min(kBlock, plan.tokens - block.first);
      block.groups = ceil_div(block.tokens, steps.group);
      const int64_t state = block.groups * plan.depth * steps.group;
      block.hidden = allocate(state);
      block.gradients = allocate(plan.accumulates ? plan.chunks * state : 0);
      block.statistics = std::make_unique<Statistics[]>(static_cast<size_t>(plan.chunks * block.groups));
    }
    const auto count = static_cast<int64_t>(running.size());
    if (scores.weight)
      parallel_for(count * groups, threads, [&](int64_t task) {
        const Block& block = running[static_cast<size_t>(task / groups)];
        const int64_t group = task % groups, first = block.first + group * steps.group;
        if (group < block.groups)
          steps.transpose(scores, first, std::min(first + steps.group, block.first + block.tokens), plan.depth,
                          block.hidden.get() + group * plan.depth * steps.group);
      });
    parallel_for(count * plan.chunks, threads, [&](int64_t task) {
      steps.sweep(scores, plan, running[static_cast<size_t>(task / plan.chunks)], task % plan.chunks);
    });
    parallel_for(count * groups, threads, [&](int64_t task) {
      const Block& block = running[static_cast<size_t>(task / groups)];
      if (task % groups < block.groups) steps.finish(scores, plan, block, task % groups);
    });
  }
}

}  // namespace adaptinf
