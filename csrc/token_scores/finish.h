// From the sums of the chunks to the scores of a token and the gradient of its hidden state.
#pragma once

#include <cmath>

#include "plan.h"
#include "vector_math.h"

namespace adaptinf::token_sweep {

// The softmax of one token over the whole vocabulary, and what each chunk's sums are to be multiplied by for p.
struct Merged {
  double peak, total, others;  // the highest logit, sum_v exp(l_v - peak), and 1 - p_label without cancellation
  double share[kChunks];
};

inline Merged merge(const TokenScores& scores, const Plan& plan, const Block& block, int64_t group, int lane, int64_t token) {
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

}  // namespace adaptinf::token_sweep
