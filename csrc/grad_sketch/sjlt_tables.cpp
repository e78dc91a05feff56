#include <algorithm>
#include <array>
#include <numeric>

#include "sjlt.h"

namespace adaptinf {
namespace {

constexpr uint32_t kTurnDomain = 256, kSignDomain = 512;
constexpr int64_t kSigns = 128;  // of one counter

// Bit j of word i becomes bit i of word j (Warren, Hacker's Delight, 7-3, for the lowest bit first).
void transpose_bits(std::array<uint32_t, 32>& words) {
  uint32_t mask = 0x0000ffffu;
  for (uint32_t distance = 16; distance != 0; distance >>= 1, mask ^= mask << distance)
    for (uint32_t i = 0; i < 32; i = (i + distance + 1) & ~distance) {
      const uint32_t swapped = ((words[i] >> distance) ^ words[i + distance]) & mask;
      words[i] ^= swapped << distance;
      words[i + distance] ^= swapped;
    }
}

}  // namespace

void SjltTables::make(const Sjlt& sketch, PhiloxKey key, bool transposed, const std::vector<uint32_t>& ids, int64_t column,
                      int64_t columns, const Kernels& kernels) {
  sketch_ = sketch;
  transposed_ = transposed;
  tile_scalar_ = transposed ? sketch.tile_columns : sketch.tile_rows;
  tile_vector_ = transposed ? sketch.tile_rows : sketch.tile_columns;
  rows_ = static_cast<int64_t>(ids.size());
  column_ = column;
  first_tile_ = column / tile_vector_;
  n_tiles_ = (column + columns - 1) / tile_vector_ - first_tile_ + 1;
  panels_ = (columns + kPanel - 1) / kPanel;
  make_runs(ids);
  make_turns(key, ids, kernels);
  if (transposed) {
    make_transposed_signs(key, ids, columns, kernels);
  } else {
    make_signs(key, ids, columns, kernels);
  }
}

void SjltTables::make_runs(const std::vector<uint32_t>& ids) {
  runs_.clear();
  for (int64_t row = 0; row < rows_; ++row) {
    const int64_t id = ids[static_cast<size_t>(row)];
    const bool goes_on = row > 0 && id == ids[static_cast<size_t>(row) - 1] + int64_t{1} && id % tile_scalar_ != 0;
    if (goes_on) {
      runs_.back().last = row + 1;
    } else {
      runs_.push_back({row, row + 1, id % tile_scalar_});
    }
  }
}

void SjltTables::make_turns(PhiloxKey key, const std::vector<uint32_t>& ids, const Kernels& kernels) {
  const int64_t n_runs = static_cast<int64_t>(runs_.size());
  turns_.resize(static_cast<size_t>(sketch_.slices * n_runs * n_tiles_));
  std::vector<std::array<uint32_t, 2>> words(static_cast<size_t>(transposed_ ? 1 : n_tiles_));
  auto* const raw = reinterpret_cast<uint32_t(*)[2]>(words.data());
  const auto turned = [](uint32_t word, int64_t size) {
    return static_cast<int32_t>((static_cast<uint64_t>(word) * static_cast<uint64_t>(size)) >> 32);
  };
  for (int64_t slice = 0; slice < sketch_.slices; ++slice) {
    const uint32_t domain = kTurnDomain + static_cast<uint32_t>(slice);
    for (int64_t run = 0; run < n_runs; ++run) {
      const int64_t scalar_tile = ids[static_cast<size_t>(runs_[static_cast<size_t>(run)].first)] / tile_scalar_;
      Turn* const turns = turns_.data() + (slice * n_runs + run) * n_tiles_;
      if (!transposed_) {
        kernels.turn_words(key, static_cast<uint64_t>(first_tile_), static_cast<uint32_t>(scalar_tile), domain, n_tiles_,
                           raw);
        for (int64_t tile = 0; tile < n_tiles_; ++tile)
          turns[tile] = {turned(raw[tile][0], tile_scalar_), turned(raw[tile][1], tile_vector_)};
      } else {
        for (int64_t tile = 0; tile < n_tiles_; ++tile) {
          kernels.turn_words(key, static_cast<uint64_t>(scalar_tile), static_cast<uint32_t>(first_tile_ + tile), domain, 1,
                             raw);
          turns[tile] = {turned(raw[0][1], tile_scalar_), turned(raw[0][0], tile_vector_)};
        }
      }
    }
  }
}

void SjltTables::make_signs(PhiloxKey key, const std::vector<uint32_t>& ids, int64_t columns, const Kernels& kernels) {
  const int64_t blocks = (columns + kSigns - 1) / kSigns;
  panels_ = 4 * blocks;
  signs_.resize(static_cast<size_t>(sketch_.slices * panels_ * rows_));
  for (int64_t slice = 0; slice < sketch_.slices; ++slice)
    kernels.sign_words(key, kSignDomain + static_cast<uint32_t>(slice), ids.data(), rows_,
                       static_cast<uint64_t>(column_ / kSigns), blocks, signs_.data() + slice * panels_ * rows_);
}

void SjltTables::make_transposed_signs(PhiloxKey key, const std::vector<uint32_t>& ids, int64_t columns,
                                       const Kernels& kernels) {
  signs_.resize(static_cast<size_t>(sketch_.slices * panels_ * rows_));
  const int64_t blocks = (rows_ + kSigns - 1) / kSigns;
  std::vector<uint32_t> words(static_cast<size_t>(4 * blocks * kPanel));
  std::array<uint32_t, kPanel> rows;
  for (int64_t slice = 0; slice < sketch_.slices; ++slice)
    for (int64_t panel = 0; panel * kPanel < columns; ++panel) {
      std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(column_ + panel * kPanel));
      kernels.sign_words(key, kSignDomain + static_cast<uint32_t>(slice), rows.data(), kPanel, ids[0] / kSigns, blocks,
                         words.data());
      uint32_t* const target = signs_.data() + (slice * panels_ + panel) * rows_;
      for (int64_t first = 0; first < rows_; first += kPanel) {
        std::array<uint32_t, 32> square;
        std::copy_n(words.data() + first, kPanel, square.data());
        transpose_bits(square);
        std::copy_n(square.data(), std::min(kPanel, rows_ - first), target + first);
      }
    }
}

SjltPanel SjltTables::panel(int64_t column, int64_t columns) const {
  SjltPanel panel{};
  panel.rows = rows_;
  panel.column = column;
  panel.columns = columns;
  panel.signs = signs_.data() + (column - column_) / kPanel * rows_;
  panel.sign_slice = panels_ * rows_;
  panel.runs = runs_.data();
  panel.n_runs = static_cast<int64_t>(runs_.size());
  panel.turns = turns_.data();
  panel.first_tile = first_tile_;
  panel.n_tiles = n_tiles_;
  panel.slices = sketch_.slices;
  panel.tile_scalar = tile_scalar_;
  panel.tile_vector = tile_vector_;
  return panel;
}

int64_t sjlt_accumulators(const Sjlt& sketch, bool transposed) {
  const int64_t tile_scalar = transposed ? sketch.tile_columns : sketch.tile_rows;
  const int64_t tile_vector = transposed ? sketch.tile_rows : sketch.tile_columns;
  return sketch.slices * tile_scalar * (tile_vector + kVectorPad);
}

// What reached beyond a row belongs to its beginning.
void add_sjlt(const Sjlt& sketch, bool transposed, const float* accumulators, float* out) {
  const int64_t scalars = transposed ? sketch.tile_columns : sketch.tile_rows;
  const int64_t vectors = transposed ? sketch.tile_rows : sketch.tile_columns, width = vectors + kVectorPad;
  for (int64_t slice = 0; slice < sketch.slices; ++slice, out += scalars * vectors)
    for (int64_t row = 0; row < scalars; ++row, accumulators += width) {
      const auto add = [&](int64_t first, int64_t count) {
        const float* const from = accumulators + first;
        if (transposed) {
          for (int64_t column = 0; column < count; ++column) out[column * scalars + row] += from[column];
        } else {
          for (int64_t column = 0; column < count; ++column) out[row * vectors + column] += from[column];
        }
      };
      add(0, vectors);
      add(vectors, std::min(vectors, kVectorPad));
    }
}

}  // namespace adaptinf
