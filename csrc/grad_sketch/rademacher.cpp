#include "rademacher.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "../common/parallel.h"

namespace adaptinf {
namespace {

constexpr int64_t kSamples = 32;              // whose entries are held at once
constexpr int64_t kPieceEntries = 1 << 16;    // about, of every sample
constexpr int64_t kBlockRows = 160;           // of the scalar side, formed by one thread
constexpr int64_t kSigns = 128;               // of one counter
constexpr uint32_t kDomain = 0;

// Whole rows of a parameter, or a part of one row.
struct Piece {
  int64_t row, rows, column, columns;
};

std::vector<Piece> pieces_of(const Part& part) {
  std::vector<Piece> pieces;
  if (part.columns == 0) return pieces;
  const int64_t columns = std::min(part.columns, kPieceEntries);
  const int64_t rows = columns < part.columns ? 1 : std::max<int64_t>(1, kPieceEntries / columns);
  for (int64_t row = 0; row < part.rows; row += rows)
    for (int64_t column = 0; column < part.columns; column += columns)
      pieces.push_back({row, std::min(rows, part.rows - row), column, std::min(columns, part.columns - column)});
  return pieces;
}

class Pass {
 public:
  Pass(int64_t k, const Output& output, const Kernels& kernels, int threads, int64_t first, int64_t samples)
      : k_(k), output_(output), kernels_(kernels), threads_(threads), first_(first), samples_(samples),
        squares_(static_cast<size_t>(samples), 0.0) {
    for (int64_t sample = 0; sample < samples; ++sample) std::fill_n(out(sample), k, 0.0f);
  }

  void add(const Part& part) {
    for (const Piece& piece : pieces_of(part)) {
      SampleTiles tiles(samples_, piece.rows * piece.columns, kernels_);
      form(part, piece, tiles);
      const uint64_t id = static_cast<uint64_t>(piece.row) * static_cast<uint64_t>(part.columns) +
                          static_cast<uint64_t>(piece.column);
      parallel_for((k_ + kPanel - 1) / kPanel, threads_, [&](int64_t panel) {
        std::array<float, kSamples * kPanel> sums{};
        const int64_t number = panel * kPanel, count = std::min(kPanel, k_ - number);
        for (int64_t sample = 0; sample < samples_; ++sample)
          std::copy_n(out(sample) + number, count, sums.data() + sample * kPanel);
        SignRows().add(part.key.philox, number, id, piece.rows * piece.columns, tiles, sums.data(), kernels_);
        for (int64_t sample = 0; sample < samples_; ++sample)
          std::copy_n(sums.data() + sample * kPanel, count, out(sample) + number);
      });
    }
  }

  void finish() const {
    if (output_.squared_norms == nullptr) return;
    for (int64_t sample = 0; sample < samples_; ++sample)
      output_.squared_norms[first_ + sample] = static_cast<float>(squares_[static_cast<size_t>(sample)]);
  }

 private:
  float* out(int64_t sample) const { return output_.sketch + (first_ + sample) * output_.step; }

  // The samples' gradients in that piece.
  void form(const Part& part, const Piece& piece, SampleTiles& tiles) {
    const int64_t scalar_first = part.transposed ? piece.column : piece.row;
    const int64_t scalars = part.transposed ? piece.columns : piece.rows;
    const int64_t blocks = (scalars + kBlockRows - 1) / kBlockRows;
    std::vector<double> squares(static_cast<size_t>(blocks * samples_), 0.0);
    parallel_for(blocks * samples_, threads_, [&](int64_t task) {
      const int64_t block = task % blocks, sample = task / blocks;
      const int64_t first = scalar_first + block * kBlockRows;
      squares[static_cast<size_t>(task)] =
          form_block(part, piece, sample, first, std::min(kBlockRows, scalar_first + scalars - first), tiles);
    });
    for (int64_t task = 0; task < blocks * samples_; ++task)
      squares_[static_cast<size_t>(task / blocks)] += squares[static_cast<size_t>(task)];
  }

  // Rows `first` on of the scalar side, and their squared norm if it is wanted.
  double form_block(const Part& part, const Piece& piece, int64_t sample, int64_t first, int64_t rows, SampleTiles& tiles) {
    const SampleTiles::Column column = tiles.column(sample);
    const int64_t scalar_first = part.transposed ? piece.column : piece.row;
    const int64_t vector_first = part.transposed ? piece.row : piece.column;
    const int64_t vector_last = vector_first + (part.transposed ? piece.rows : piece.columns);
    const int64_t scalar_step = (part.transposed ? 1 : piece.columns) * column.step;
    const int64_t vector_step = (part.transposed ? piece.columns : 1) * column.step;
    float* const target = column.to + (first - scalar_first) * scalar_step;
    const bool empty = part.source->is_empty(first_ + sample), preconditions = part.state.by.form != Form::none;
    Workspace workspace;
    double squares = 0;
    if (!empty) part.source->prepare(first_ + sample, first, rows, workspace);
    const int64_t step = part.source->panel_columns(rows);
    for (int64_t vector = vector_first; vector < vector_last; vector += step) {
      const int64_t columns = std::min(step, vector_last - vector);
      Panel values{nullptr, 0};
      if (!empty) {
        values = part.source->panel(first_ + sample, first, rows, vector, columns, preconditions, workspace);
        if (preconditions) precondition_panel(part.state, workspace, values.step, first, rows, vector, columns, kernels_);
        if (output_.squared_norms != nullptr) squares += kernels_.squared_norm(values.values, values.step, rows, columns);
      }
      for (int64_t i = 0; i < rows; ++i) {
        float* const to = target + i * scalar_step + (vector - vector_first) * vector_step;
        for (int64_t j = 0; j < columns; ++j) to[j * vector_step] = empty ? 0.0f : values.values[i * values.step + j];
      }
    }
    return squares;
  }

  const int64_t k_;
  const Output& output_;
  const Kernels& kernels_;
  const int threads_;
  const int64_t first_, samples_;
  std::vector<double> squares_;
};

}  // namespace

SampleTiles::SampleTiles(int64_t samples, int64_t entries, const Kernels& kernels)
    : samples_(samples), entries_(entries), tiles_((samples + kernels.max_rows - 1) / kernels.max_rows),
      values_(memory_.reserve(samples * entries)) {}

SampleTiles::Column SampleTiles::column(int64_t sample) {
  int64_t tile = 0;
  while (first(tile) + size(tile) <= sample) ++tile;
  return {values_ + first(tile) * entries_ + sample - first(tile), size(tile)};
}

// Terms are summed in blocks that begin at multiples of kTokens of the id.
void SignRows::add(PhiloxKey key, int64_t number, uint64_t id, int64_t entries, const SampleTiles& tiles, float* sums,
                   const Kernels& kernels) {
  std::array<uint32_t, kPanel> rows;
  std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(number));
  std::array<uint32_t, kTokens / 32 * kPanel> words;
  static_assert(kTokens % kSigns == 0);
  float* const signs = signs_.reserve(kTokens * kPanel);
  for (int64_t done = 0; done < entries;) {
    const uint64_t at = id + static_cast<uint64_t>(done), block = at / kTokens * kTokens;
    const int64_t skip = static_cast<int64_t>(at - block), terms = std::min(kTokens - skip, entries - done);
    kernels.sign_words(key, kDomain, rows.data(), kPanel, block / kSigns, kTokens / kSigns, words.data());
    for (int64_t word = skip / 32; word * 32 < skip + terms; ++word)
      kernels.sign_panel(words.data() + word * kPanel, signs + word * 32 * kPanel);
    for (int64_t tile = 0; tile < tiles.count(); ++tile)
      kernels.multiply(tiles.entry(tile, done), tiles.size(tile), signs + skip * kPanel, kPanel, terms,
                       sums + tiles.first(tile) * kPanel, true);
    done += terms;
  }
}

void sketch_rademacher(const std::vector<Part>& parts, int64_t k, const Output& output, const Kernels& kernels,
                       int threads) {
  const int64_t samples = parts.front().source->samples();
  for (int64_t first = 0; first < samples; first += kSamples) {
    Pass pass(k, output, kernels, threads, first, std::min(kSamples, samples - first));
    for (const Part& part : parts) pass.add(part);
    pass.finish();
  }
}

}  // namespace adaptinf
