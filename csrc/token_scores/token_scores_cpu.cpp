// One sweep over the vocabulary, as in flash attention. Work is cut along fixed lines: the vocabulary into chunks, a chunk
// into panels of rows of the head, a panel into stretches of its depth. A token is a vector lane, so its sums never meet
// those of another; blocks of tokens and threads may fall as they like.
#include "token_scores.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>

#include "../common/parallel.h"
#include "tile_kernels.h"

namespace adaptinf {
namespace {

constexpr int kMaxGroup = 32;           // tokens side by side in the widest instruction set
constexpr int64_t kRows = 12;           // rows of the head, or of its depth, are padded to a multiple
constexpr int64_t kPanel = 20 * kRows;  // rows of the head at a time; with kDepth of their columns they fit in L2
constexpr int64_t kDepth = 24 * kRows;
constexpr int64_t kPanelStride = kDepth + 16;  // keeps the rows of a panel off the same cache sets
constexpr int64_t kBlock = 256;                // tokens that share a pass over the head
constexpr int64_t kChunks = 8;                 // parts of the vocabulary that threads may take

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats allocate(int64_t count) {
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

Plan make_plan(const TokenScores& scores) {
  Plan plan{};
  plan.tokens = scores.hidden.shape[0];
  plan.vocabulary = scores.weight ? scores.weight->shape[0] : scores.hidden.shape[1];
  plan.depth = scores.weight ? ceil_div(scores.hidden.shape[1], kRows) * kRows : 0;
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

// The rows first to last of the head (last excluded) in its columns from `column` on, padded with zeros.
ADAPTINF_ALWAYS void pack(const TensorView& weight, int64_t first, int64_t last, int64_t column, int64_t columns,
                          float* panel) {
  const int64_t width = std::min(columns, weight.shape[1] - column);
  for (int64_t row = 0; row < ceil_div(last - first, kRows) * kRows; ++row) {
    float* target = panel + row * kPanelStride;
    const int64_t present = first + row < last ? width : 0;
    widen(weight, first + row, column, present, target);
    std::fill(target + present, target + columns, 0.0f);
  }
}

// hidden^T of one group of tokens, zeros for those beyond the end.
template <int Lanes>
ADAPTINF_ALWAYS void transpose_body(const TokenScores& scores, int64_t first, int64_t last, int64_t depth, float* target) {
  constexpr int kGroup = 2 * Lanes;
  std::fill(target, target + depth * kGroup, 0.0f);
  float row[kDepth];
  const int64_t width = scores.hidden.shape[1];
  for (int64_t token = first; token < last; ++token)
    for (int64_t column = 0; column < width; column += kDepth) {
      const int64_t count = std::min(kDepth, width - column);
      widen(scores.hidden, token, column, count, row);
      for (int64_t k = 0; k < count; ++k) target[(column + k) * kGroup + (token - first)] = row[k];
    }
}

// Takes the labels' logits out of a tile [rows][group], puts exp(l - peak) in place of the others, adds to the
// statistics, and gives the factors that former sums shrink by. Whether any factor differs from 1.
template <int Lanes>
ADAPTINF_ALWAYS bool softmax(float* tile, int64_t rows, const int64_t* labels, int64_t tokens, int64_t row,
                             Statistics& statistics, float* factors) {
  using Float = typename Vector<Lanes>::Float;
  constexpr int kGroup = 2 * Lanes;
  for (int64_t token = 0; token < tokens; ++token)
    if (labels[token] >= row && labels[token] < row + rows) {
      float& logit = tile[(labels[token] - row) * kGroup + token];
      statistics.label[token] = logit;
      logit = -kInfinity;
    }
  Float before[2], peak[2], shift[2], sum[2]{}, weighted[2]{}, squares[2]{};
  std::memcpy(before, statistics.peak, sizeof before);
  std::memcpy(peak, before, sizeof peak);
  for (int64_t n = 0; n < rows; ++n)
    for (int side = 0; side < 2; ++side) {
      Float logit;
      std::memcpy(&logit, tile + kGroup * n + Lanes * side, sizeof logit);
      peak[side] = logit > peak[side] ? logit : peak[side];
    }
  std::memcpy(statistics.peak, peak, sizeof peak);
  for (int side = 0; side < 2; ++side) shift[side] = peak[side] == -kInfinity ? Float{} : peak[side];
  for (int64_t n = 0; n < rows; ++n)
    for (int side = 0; side < 2; ++side) {
      float* place = tile + kGroup * n + Lanes * side;
      Float x, e;
      std::memcpy(&x, place, sizeof x);
      x = x - shift[side];
      exp_nonpositive<Lanes>(x, e);
      std::memcpy(place, &e, sizeof e);
      sum[side] += e;
      weighted[side] += e * x;
      squares[side] += e * e;
    }
  Float steps[2];
  for (int side = 0; side < 2; ++side) {
    steps[side] = before[side] - shift[side];
    Float factor;
    exp_nonpositive<Lanes>(steps[side], factor);
    std::memcpy(factors + Lanes * side, &factor, sizeof factor);
  }
  bool changed = false;
  float step[kGroup], sums[kGroup], weights[kGroup], of_squares[kGroup];
  std::memcpy(step, steps, sizeof step);
  std::memcpy(sums, sum, sizeof sums);
  std::memcpy(weights, weighted, sizeof weights);
  std::memcpy(of_squares, squares, sizeof of_squares);
  for (int token = 0; token < kGroup; ++token) {
    const double factor = factors[token], former = statistics.sum[token];
    statistics.weighted[token] = factor * (statistics.weighted[token] + step[token] * former) + weights[token];
    statistics.sum[token] = factor * former + sums[token];
    statistics.squares[token] = factor * factor * statistics.squares[token] + of_squares[token];
    changed = changed || factors[token] != 1.0f;
  }
  return changed;
}

template <int Lanes, int Rows>
ADAPTINF_ALWAYS void sweep_body(const TokenScores& scores, const Plan& plan, const Block& block, int64_t chunk) {
  constexpr int kGroup = 2 * Lanes;
  Statistics* statistics = block.statistics.get() + chunk * block.groups;
  float* gradients = block.gradients.get() + chunk * block.groups * plan.depth * kGroup;
  for (int64_t group = 0; group < block.groups; ++group)
    for (int token = 0; token < kMaxGroup; ++token) {
      Statistics& one = statistics[group];
      one.peak[token] = -kInfinity;
      one.label[token] = 0.0f;
      one.sum[token] = one.weighted[token] = one.squares[token] = 0.0;
    }
  if (plan.accumulates) std::fill(gradients, gradients + block.groups * plan.depth * kGroup, 0.0f);

  const Floats panel = allocate(kPanel * kPanelStride), tiles = allocate(block.groups * kPanel * kGroup);
  const int64_t end = std::min(plan.vocabulary, (chunk + 1) * plan.chunk);
  for (int64_t first = chunk * plan.chunk; first < end; first += kPanel) {
    const int64_t last = std::min(end, first + kPanel), rows = last - first;
    float bias[kPanel]{};
    if (scores.bias) widen(*scores.bias, 0, first, rows, bias);
    for (int64_t group = 0; group < block.groups; ++group) {
      float* tile = tiles.get() + group * kPanel * kGroup;
      if (scores.weight)
        for (int64_t n = 0; n < kPanel; ++n) std::fill(tile + n * kGroup, tile + (n + 1) * kGroup, bias[n]);
      else
        for (int64_t token = group * kGroup; token < std::min(block.tokens, (group + 1) * kGroup); ++token) {
          float logits[kPanel];
          widen(scores.hidden, block.first + token, first, rows, logits);
          for (int64_t n = 0; n < rows; ++n) tile[n * kGroup + token - group * kGroup] = logits[n];
        }
    }
    for (int64_t column = 0; column < plan.depth; column += kDepth) {
      const int64_t columns = std::min(kDepth, plan.depth - column);
      pack(*scores.weight, first, last, column, columns, panel.get());
      for (int64_t group = 0; group < block.groups; ++group)
        for (int64_t n = 0; n < rows; n += Rows)
          multiply_rows<Lanes, Rows>(panel.get() + n * kPanelStride, kPanelStride,
                                     block.hidden.get() + (group * plan.depth + column) * kGroup, columns,
                                     tiles.get() + (group * kPanel + n) * kGroup);
    }
    for (int64_t group = 0; group < block.groups; ++group) {
      const int64_t token = group * kGroup;
      float factors[kGroup];
      const bool changed =
          softmax<Lanes>(tiles.get() + group * kPanel * kGroup, rows, scores.labels + block.first + token,
                         std::min<int64_t>(kGroup, block.tokens - token), first, statistics[group], factors);
      float* sums = gradients + group * plan.depth * kGroup;
      if (plan.accumulates && changed)
        for (int64_t k = 0; k < plan.depth; ++k)
          for (int lane = 0; lane < kGroup; ++lane) sums[k * kGroup + lane] *= factors[lane];
    }
    if (!plan.accumulates) continue;
    // Backwards, because the last columns are still packed.
    for (int64_t column = (plan.depth - 1) / kDepth * kDepth; column >= 0; column -= kDepth) {
      const int64_t columns = std::min(kDepth, plan.depth - column);
      if (column + kDepth < plan.depth) pack(*scores.weight, first, last, column, columns, panel.get());
      for (int64_t group = 0; group < block.groups; ++group)
        for (int64_t k = 0; k < columns; k += Rows)
          multiply_columns<Lanes, Rows>(panel.get() + k, kPanelStride, tiles.get() + group * kPanel * kGroup, rows,
                                        gradients + (group * plan.depth + column + k) * kGroup);
    }
  }
}

// The softmax of one token over the whole vocabulary, and what each chunk's sums are to be multiplied by for p.
struct Merged {
  double peak, total, others;  // the highest logit, sum_v exp(l_v - peak), and 1 - p_label without cancellation
  double share[kChunks];
};

Merged merge(const TokenScores& scores, const Plan& plan, const Block& block, int64_t group, int lane, int64_t token) {
  const Statistics* chunks = block.statistics.get() + group;
  const auto of = [&](int64_t chunk) -> const Statistics& { return chunks[chunk * block.groups]; };
  Merged merged{};
  double rival = -kInfinity, sum = 0, weighted = 0, squares = 0;
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) rival = std::max<double>(rival, of(chunk).peak[lane]);
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
    const bool empty = of(chunk).peak[lane] == -kInfinity;
    const double step = empty ? 0.0 : of(chunk).peak[lane] - rival, share = empty ? 0.0 : std::exp(step);
    merged.share[chunk] = share;
    weighted += share * (of(chunk).weighted[lane] + step * of(chunk).sum[lane]);
    sum += share * of(chunk).sum[lane];
    squares += share * share * of(chunk).squares[lane];
  }
  const int64_t label = scores.labels[token];
  if (label < 0) {
    merged.peak = rival;
    merged.total = sum;
    scores.entropy[token] = static_cast<float>(std::log(sum) - weighted / sum);
    scores.nll[token] = scores.el2n_sq[token] = scores.margin[token] = 0.0f;
    return merged;
  }
  const double logit = of(label / plan.chunk).label[lane];
  const bool first = logit >= rival;
  merged.peak = first ? logit : rival;
  const double of_rivals = std::exp(rival - merged.peak), of_label = std::exp(logit - merged.peak);
  merged.total = of_rivals * sum + of_label;
  merged.others = of_rivals * sum / merged.total;
  const double log_total = std::log1p(first ? of_rivals * sum : (sum - 1) + of_label);
  const double rivals_weighted = of_rivals > 0 ? of_rivals * (weighted + (rival - merged.peak) * sum) : of_rivals;
  const double label_weighted = of_label > 0 ? of_label * (logit - merged.peak) : of_label;
  scores.nll[token] = static_cast<float>((merged.peak - logit) + log_total);
  scores.entropy[token] = static_cast<float>(log_total - (rivals_weighted + label_weighted) / merged.total);
  const double scale = of_rivals / merged.total;
  scores.el2n_sq[token] = static_cast<float>(merged.others * merged.others + scale * scale * squares);
  scores.margin[token] = static_cast<float>(logit - rival + 0 * merged.total);  // a NaN logit beside the highest
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) merged.share[chunk] *= scale;
  return merged;
}

// d nll / d hidden of a group's tokens: the chunks' sums of p W, less (1 - p_label) times the label's row of the head.
template <int Lanes>
ADAPTINF_ALWAYS void hidden_gradients(const TokenScores& scores, const Plan& plan, const Block& block, int64_t group,
                                      int64_t tokens, const Merged* merged) {
  constexpr int kGroup = 2 * Lanes;
  constexpr int64_t kSlice = 16;
  float share[kChunks][kGroup]{};
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk)
    for (int64_t lane = 0; lane < tokens; ++lane) share[chunk][lane] = static_cast<float>(merged[lane].share[chunk]);
  const int64_t width = scores.hidden.shape[1];
  for (int64_t column = 0; column < width; column += kSlice) {
    const int64_t count = std::min(kSlice, width - column);
    float total[kSlice][kGroup]{};
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
      const float* sums =
          block.gradients.get() + ((chunk * block.groups + group) * plan.depth + column) * kGroup;
      for (int64_t k = 0; k < count; ++k)
        for (int lane = 0; lane < kGroup; ++lane) total[k][lane] += share[chunk][lane] * sums[k * kGroup + lane];
    }
    for (int64_t lane = 0; lane < tokens; ++lane) {
      const int64_t token = block.first + group * kGroup + lane, label = scores.labels[token];
      float* target = static_cast<float*>(scores.grad->data) + token * scores.grad->strides[0] + column;
      if (label < 0) {
        std::fill(target, target + count, 0.0f);
        continue;
      }
      const float others = static_cast<float>(merged[lane].others);
      float row[kSlice];
      widen(*scores.weight, label, column, count, row);
      for (int64_t k = 0; k < count; ++k) target[k] = total[k][lane] - others * row[k];
    }
  }
}

// p - onehot of one token, where hidden holds its logits.
template <int Lanes>
ADAPTINF_ALWAYS void logit_gradients(const TokenScores& scores, const Plan& plan, int64_t token, const Merged& merged) {
  using Float = typename Vector<Lanes>::Float;
  float* target = static_cast<float*>(scores.grad->data) + token * scores.grad->strides[0];
  const int64_t label = scores.labels[token];
  if (label < 0) {
    std::fill(target, target + plan.vocabulary, 0.0f);
    return;
  }
  const float peak = static_cast<float>(merged.peak), scale = static_cast<float>(1 / merged.total);
  for (int64_t first = 0; first < plan.vocabulary; first += Lanes) {
    const int64_t count = std::min<int64_t>(Lanes, plan.vocabulary - first);
    float logits[Lanes]{};
    widen(scores.hidden, token, first, count, logits);
    Float x, e;
    std::memcpy(&x, logits, sizeof x);
    x = x - peak;
    exp_nonpositive<Lanes>(x, e);
    e = e * scale;
    std::memcpy(target + first, &e, static_cast<size_t>(count) * sizeof(float));
  }
  target[label] = -static_cast<float>(merged.others);
}

template <int Lanes>
ADAPTINF_ALWAYS void finish_body(const TokenScores& scores, const Plan& plan, const Block& block, int64_t group) {
  constexpr int kGroup = 2 * Lanes;
  const int64_t first = block.first + group * kGroup;
  const int64_t tokens = std::min<int64_t>(kGroup, block.first + block.tokens - first);
  Merged merged[kGroup];
  for (int64_t lane = 0; lane < tokens; ++lane)
    merged[lane] = merge(scores, plan, block, group, static_cast<int>(lane), first + lane);
  if (plan.accumulates) hidden_gradients<Lanes>(scores, plan, block, group, tokens, merged);
  if (scores.grad && !scores.weight)
    for (int64_t lane = 0; lane < tokens; ++lane) logit_gradients<Lanes>(scores, plan, first + lane, merged[lane]);
}

// The three steps, compiled for an instruction set that computes `group` tokens side by side.
struct Steps {
  int64_t group;
  void (*transpose)(const TokenScores&, int64_t first, int64_t last, int64_t depth, float* target);
  void (*sweep)(const TokenScores&, const Plan&, const Block&, int64_t chunk);
  void (*finish)(const TokenScores&, const Plan&, const Block&, int64_t group);
};

#define ADAPTINF_STEPS(NAME, TARGET, LANES, ROWS)                                                                       \
  TARGET void transpose_##NAME(const TokenScores& scores, int64_t first, int64_t last, int64_t depth, float* target) {  \
    transpose_body<LANES>(scores, first, last, depth, target);                                                          \
  }                                                                                                                     \
  TARGET void sweep_##NAME(const TokenScores& scores, const Plan& plan, const Block& block, int64_t chunk) {            \
    sweep_body<LANES, ROWS>(scores, plan, block, chunk);                                                                \
  }                                                                                                                     \
  TARGET void finish_##NAME(const TokenScores& scores, const Plan& plan, const Block& block, int64_t group) {           \
    finish_body<LANES>(scores, plan, block, group);                                                                     \
  }                                                                                                                     \
  constexpr Steps k_##NAME{2 * LANES, transpose_##NAME, sweep_##NAME, finish_##NAME};

ADAPTINF_STEPS(portable, , 4, 6)
#if defined(__x86_64__)
ADAPTINF_STEPS(avx2, __attribute__((target("avx2,fma"))), 8, 6)
ADAPTINF_STEPS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), 16, 12)
#endif

const Steps& steps_for(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return k_avx512;
  if (level == CpuLevel::avx2) return k_avx2;
#endif
  (void)level;
  return k_portable;
}

}  // namespace

void token_scores_cpu(const TokenScores& scores, int threads, CpuLevel level) {
  const Plan plan = make_plan(scores);
  const Steps& steps = steps_for(level);
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
