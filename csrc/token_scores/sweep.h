// The sweep of one block of tokens over one chunk of the vocabulary; `Tiles` is the arithmetic (float_tiles.h says what it
// offers).
#pragma once

#include "plan.h"
#include "vector_math.h"

namespace adaptinf::token_sweep {

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

template <class Tiles>
ADAPTINF_ALWAYS void sweep_body(const TokenScores& scores, const Plan& plan, const Block& block, int64_t chunk) {
  constexpr int kGroup = Tiles::kGroup;
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

  const Floats panel = allocate(kPanel * (kDepth + 16)), tiles = allocate(block.groups * kPanel * kGroup);
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
      Tiles::pack_for_rows(*scores.weight, first, last, column, columns, panel.get());
      for (int64_t group = 0; group < block.groups; ++group)
        for (int64_t n = 0; n < rows; n += Tiles::kRows)
          Tiles::multiply_rows(panel.get(), n, block.hidden.get() + group * plan.depth * kGroup, column, columns,
                               tiles.get() + (group * kPanel + n) * kGroup);
    }
    for (int64_t group = 0; group < block.groups; ++group) {
      const int64_t token = group * kGroup;
      float factors[kGroup];
      const bool changed =
          softmax<kGroup / 2>(tiles.get() + group * kPanel * kGroup, rows, scores.labels + block.first + token,
                         std::min<int64_t>(kGroup, block.tokens - token), first, statistics[group], factors);
      float* sums = gradients + group * plan.depth * kGroup;
      if (plan.accumulates && changed)
        for (int64_t k = 0; k < plan.depth; ++k)
          for (int lane = 0; lane < kGroup; ++lane) sums[k * kGroup + lane] *= factors[lane];
      if (plan.accumulates) Tiles::narrow(tiles.get() + group * kPanel * kGroup, rows);
    }
    if (!plan.accumulates) continue;
    // Backwards, because the last columns may still be packed as they are needed.
    for (int64_t column = (plan.depth - 1) / kDepth * kDepth; column >= 0; column -= kDepth) {
      const int64_t columns = std::min(kDepth, plan.depth - column);
      if (!Tiles::kOnePacking || column + kDepth < plan.depth)
        Tiles::pack_for_columns(*scores.weight, first, last, column, columns, panel.get());
      for (int64_t group = 0; group < block.groups; ++group)
        for (int64_t k = 0; k < columns; k += Tiles::kRows)
          Tiles::multiply_columns(panel.get(), k, tiles.get() + group * kPanel * kGroup, rows,
                                  gradients + (group * plan.depth + column + k) * kGroup);
    }
  }
}

}  // namespace adaptinf::token_sweep
