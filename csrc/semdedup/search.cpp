#include "search.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace adaptinf::semdedup {
namespace {

constexpr double kHalfUlp = 0x1p-24;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float below(double value) { return static_cast<float>(value - (std::fabs(value) * 0x1p-23 + 0x1p-140)); }
float above(double value) { return -below(-value); }

using Four = uint32_t __attribute__((vector_size(16)));
using LooseFour = uint32_t __attribute__((vector_size(16), aligned(4), may_alias));

Four four(const uint32_t* words) { return *reinterpret_cast<const LooseFour*>(words); }

// Four rows of words, four words to a row of the target.
void transpose(const uint32_t* a, const uint32_t* b, const uint32_t* c, const uint32_t* d, int64_t words, uint32_t* target,
               int64_t step) {
  for (int64_t word = 0; word < words; word += 4, target += 4 * step) {
    const Four low = __builtin_shuffle(four(a + word), four(b + word), Four{0, 4, 1, 5}),
               high = __builtin_shuffle(four(a + word), four(b + word), Four{2, 6, 3, 7}),
               other_low = __builtin_shuffle(four(c + word), four(d + word), Four{0, 4, 1, 5}),
               other_high = __builtin_shuffle(four(c + word), four(d + word), Four{2, 6, 3, 7});
    *reinterpret_cast<LooseFour*>(target) = __builtin_shuffle(low, other_low, Four{0, 1, 4, 5});
    *reinterpret_cast<LooseFour*>(target + step) = __builtin_shuffle(low, other_low, Four{2, 3, 6, 7});
    *reinterpret_cast<LooseFour*>(target + 2 * step) = __builtin_shuffle(high, other_high, Four{0, 1, 4, 5});
    *reinterpret_cast<LooseFour*>(target + 3 * step) = __builtin_shuffle(high, other_high, Four{2, 3, 6, 7});
  }
}

}  // namespace

Search::Search(const Cluster& cluster, Components* components)
    : cluster_(cluster), kernels_(cluster.kernels()), components_(components), scratch_(cluster.width()),
      unit_(static_cast<size_t>(cluster.width())), other_unit_(unit_.size()),
      values_(static_cast<size_t>((kMaxTileColumns + kMaxTileRows) * kernels_.tile_columns)) {}

void Search::begin(int64_t first, int64_t last) {
  first_ = first;
  last_ = last;
  const int64_t wide = kernels_.tile_columns, words = cluster_.words();
  columns_.assign(static_cast<size_t>(last - first), Column{});
  thresholds_.assign(static_cast<size_t>(panels() * wide), kInfinity);
  panels_.resize(static_cast<size_t>(panels() * words * wide));
  for (int64_t id = first; id < last; ++id) {
    Column& one = column(id);
    one.at_least = -kInfinity;
    one.offset = cluster_.residual(id).along + cluster_.center_square();
  }
  const std::vector<uint32_t> nothing(static_cast<size_t>(words));
  const auto source = [&](int64_t id) { return id < last ? cluster_.rounded(id) : nothing.data(); };
  for (int64_t at = 0; at < panels() * wide; at += 4)
    transpose(source(first + at), source(first + at + 1), source(first + at + 2), source(first + at + 3), words,
              panels_.data() + at / wide * words * wide + at % wide, wide);
}

void Search::load(const int64_t* rows, int64_t count) {
  const int64_t tall = kernels_.tile_rows, words = cluster_.words(), groups = (count + tall - 1) / tall;
  chunk_.resize(static_cast<size_t>(groups * tall * words));
  bias_.assign(static_cast<size_t>(groups * tall), -kInfinity);
  count_ = count;
  length_ = rounding_ = along_ = 0;
  for (int64_t i = 0; i < groups * tall; ++i) {
    uint32_t* target = chunk_.data() + i / tall * tall * words + i % tall * kQuad;
    if (i >= count) {
      for (int64_t word = 0; word < words; word += kQuad) std::memset(target + word * tall, 0, kQuad * sizeof(uint32_t));
      continue;
    }
    const uint32_t* source = cluster_.rounded(rows[i]);
    for (int64_t word = 0; word < words; word += kQuad)
      std::memcpy(target + word * tall, source + word, kQuad * sizeof(uint32_t));
    const Residual& of = cluster_.residual(rows[i]);
    bias_[static_cast<size_t>(i)] = static_cast<float>(of.along);
    length_ = std::max(length_, of.length);
    rounding_ = std::max(rounding_, of.rounding);
    along_ = std::max(along_, std::fabs(of.along));
  }
}

// How far the screen's values of the chunk can be from the similarities: Cauchy and Schwarz for what rounding took from both
// rows, the sums in float32 (two roundings an entry at most) and of the bias, and float64 everywhere else.
void Search::bound(int64_t panel) {
  const auto entries = static_cast<double>(cluster_.width());
  const double sums = (2 * entries + 8) * kHalfUlp, rounded = length_ + rounding_;
  for (int64_t id = panel_first(panel); id < panel_last(panel); ++id) {
    Column& one = column(id);
    const Residual& of = cluster_.residual(id);
    const double product = rounded * (of.length + of.rounding);
    one.error = 1.001 * (rounding_ * of.length + rounded * of.rounding + sums / (1 - sums) * product +
                         4 * kHalfUlp * (along_ + product)) + (entries + 8) * 0x1p-50;
    one.edge = kInfinity;
    if (components_ != nullptr)
      for (const double threshold : components_->thresholds())
        if (threshold < 1) one.edge = std::min(one.edge, below(threshold - one.offset - one.error));
    raise(id, -std::numeric_limits<double>::infinity());
  }
}

void Search::screen(int64_t panel, int64_t group, float* values) {
  const int64_t words = cluster_.words();
  kernels_.screen(chunk_.data() + group * kernels_.tile_rows * words, panels_.data() + panel * words * kernels_.tile_columns,
                  words, bias_.data() + group * kernels_.tile_rows, thresholds_.data() + panel * kernels_.tile_columns, values,
                  hits_);
}

void Search::add(const int64_t* rows, int64_t count, int64_t from, int64_t to) {
  const int64_t tall = kernels_.tile_rows;
  for (int64_t start = 0; start < count; start += kRows) {
    load(rows + start, std::min(kRows, count - start));
    for (int64_t panel = from; panel < to; ++panel) {
      bound(panel);
      const int64_t last = panel_last(panel);
      for (int64_t group = 0; group * tall < count_; ++group) {
        const int64_t* ids = rows + start + group * tall;
        if (ids[0] >= last - 1) break;
        screen(panel, group, values_.data());
        for (int64_t i = 0; i < std::min(tall, count_ - group * tall); ++i)
          for (uint32_t left = hits_[i]; left != 0; left &= left - 1) {
            const int64_t at = __builtin_ctz(left), id = panel_first(panel) + at;
            if (ids[i] < id) consider(id, values_[static_cast<size_t>(i * kernels_.tile_columns + at)], ids[i]);
          }
      }
    }
  }
}

void Search::consider(int64_t id, float value, int64_t row) {
  Column& one = column(id);
  if (components_ != nullptr && value >= one.edge) {
    const std::vector<double>& thresholds = components_->thresholds();
    for (size_t i = 0; i < thresholds.size(); ++i) {
      const double gap = static_cast<double>(value) + one.offset - thresholds[i];
      if (thresholds[i] >= 1 || gap < -one.error || components_->joined(i, id, row)) continue;
      if (gap > one.error || exact(id, row) > thresholds[i]) components_->join(i, id, row);
    }
  }
  if (value < one.threshold) return;
  raise(id, static_cast<double>(value) - one.error);
  if (one.candidates == kCandidates) {
    one.candidates = std::remove_if(one.candidate, one.candidate + kCandidates,
                                    [&](const Candidate& other) { return other.at_most < one.at_least; }) - one.candidate;
    if (one.candidates == kCandidates) settle(id);
  }
  one.candidate[one.candidates++] = {above(static_cast<double>(value) + one.error), row};
}

// Similarities end at 1: rows that reach it are equally alike, so that nothing proves more than that.
void Search::raise(int64_t id, double at_least) {
  Column& one = column(id);
  one.at_least = std::max(one.at_least, below(std::min(at_least, 1 - one.offset) - (0x1p-50 + 0x1p-52 * std::fabs(one.offset))));
  one.threshold = below(static_cast<double>(one.at_least) - one.error);
  thresholds_[static_cast<size_t>(id - first_)] = std::min(one.threshold, one.edge);
}

double Search::exact(int64_t id, int64_t row) {
  if (unit_of_ != id) cluster_.unit(id, scratch_, unit_.data());
  if (other_of_ != row) cluster_.unit(row, scratch_, other_unit_.data());
  unit_of_ = id;
  other_of_ = row;
  return cluster_.similarity(unit_.data(), other_unit_.data());
}

bool Search::exceeds(int64_t id, double threshold) {
  const Column& one = column(id);
  for (int64_t i = 0; i < one.candidates; ++i)
    if (static_cast<double>(one.candidate[i].at_most) + one.offset > threshold) settle(id);  // ends the loop
  return one.best.row >= 0 && one.best.similarity > threshold;
}

void Search::settle(int64_t id) {
  Column& one = column(id);
  const int64_t candidates = one.candidates;
  one.candidates = 0;
  for (int64_t i = 0; i < candidates; ++i) {
    const Candidate candidate = one.candidate[i];
    if (candidate.at_most < one.at_least) continue;
    const double similarity = exact(id, candidate.row);
    if (one.best.row >= 0 && !(similarity > one.best.similarity)) continue;  // candidates come in the order of rows
    one.best = {candidate.row, similarity};
    raise(id, similarity - one.offset);
  }
}

Best Search::best(int64_t id) {
  settle(id);
  return column(id).best;
}

}  // namespace adaptinf::semdedup
