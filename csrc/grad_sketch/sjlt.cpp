#include "sjlt.h"

#include <algorithm>
#include <numeric>

#include "../common/parallel.h"

namespace adaptinf {
namespace {

constexpr int64_t kBlockRows = 160;             // of the scalar side
constexpr int64_t kBlockEntries = 1 << 16;      // about; their signs and turns are made once for a group of samples
constexpr int64_t kBlockColumns = 512;          // at least
constexpr int64_t kChunks = 8;                  // of a part, each with accumulators of its own
constexpr int64_t kAccumulatorFloats = 1 << 24; // at once

struct Block {
  int64_t row, rows, column, columns;  // scalar side, vector side
};

// The blocks of a part and the chunks they form. They depend on the parameter's shape and the sketch alone, as does the
// order of every sum.
class Plan {
 public:
  Plan(const Part& part, const Sjlt& sketch) {
    const int64_t scalars = part.transposed ? part.columns : part.rows, vectors = part.transposed ? part.rows : part.columns;
    const int64_t rows = piece_size(scalars, kBlockRows, part.transposed ? 128 : 4);
    const int64_t tile = std::min<int64_t>(64, sketch.tile_rows * sketch.tile_columns);  // of small tiles there are many
    const int64_t entries = std::max<int64_t>(1, kBlockEntries * tile / 64 / sketch.slices);
    const int64_t wanted = entries / std::max<int64_t>(1, std::min(rows, scalars));
    const int64_t columns = piece_size(vectors, std::max(kBlockColumns, wanted), 128);
    for (int64_t row = 0; row < scalars; row += rows)
      for (int64_t column = 0; column < vectors; column += columns)
        blocks_.push_back({row, std::min(rows, scalars - row), column, std::min(columns, vectors - column)});
  }
  int64_t chunks() const { return std::min(kChunks, static_cast<int64_t>(blocks_.size())); }
  // Calls use(block) for each block of a chunk, in order.
  template <typename Use>
  void for_chunk(int64_t chunk, const Use& use) const {
    const int64_t blocks = static_cast<int64_t>(blocks_.size());
    for (int64_t i = chunk * blocks / chunks(); i < (chunk + 1) * blocks / chunks(); ++i)
      use(blocks_[static_cast<size_t>(i)]);
  }

 private:
  std::vector<Block> blocks_;
};

class Pass {
 public:
  Pass(const std::vector<Part>& parts, const Sjlt& sketch, const Output& output, const Kernels& kernels, int threads)
      : parts_(parts), sketch_(sketch), output_(output), kernels_(kernels), threads_(threads) {
    for (const Part& part : parts) {
      plans_.emplace_back(part, sketch);
      const int64_t size = sjlt_accumulators(sketch, part.transposed);
      for (int64_t chunk = 0; chunk < plans_.back().chunks(); ++chunk) {
        chunks_.push_back({plans_.size() - 1, chunk, floats_, size});
        floats_ += size;
      }
    }
  }

  // Samples first to last.
  void run(int64_t first, int64_t last) {
    const int64_t samples = last - first, chunks = static_cast<int64_t>(chunks_.size());
    float* const accumulators = memory_.reserve(floats_ * samples);
    squares_.assign(static_cast<size_t>(chunks * samples), 0.0);
    // groups of samples share the tables of a block; how many there are changes no bits
    const int64_t groups = std::clamp<int64_t>((4 * threads_ + chunks - 1) / std::max<int64_t>(1, chunks), 1, samples);
    parallel_for(chunks * groups, threads_, [&](int64_t task) {
      const int64_t chunk = task % chunks, group = task / chunks;
      sketch_chunk(chunk, first, group * samples / groups, (group + 1) * samples / groups, samples, accumulators);
    });
    parallel_for(samples, threads_, [&](int64_t sample) { finish(first, sample, samples, accumulators); });
  }

  // How many samples fit into memory at once.
  int64_t most_samples() const { return std::max<int64_t>(1, kAccumulatorFloats / std::max<int64_t>(1, floats_)); }

 private:
  struct Chunk {
    size_t part;
    int64_t index, offset, size;  // floats of a sample's accumulators
  };

  float* accumulators_of(const Chunk& chunk, int64_t sample, int64_t samples, float* all) const {
    return all + chunk.offset * samples + chunk.size * sample;
  }

  void sketch_chunk(int64_t index, int64_t first, int64_t begin, int64_t end, int64_t samples, float* all) {
    const Chunk& chunk = chunks_[static_cast<size_t>(index)];
    const Part& part = parts_[chunk.part];
    for (int64_t sample = begin; sample < end; ++sample)
      std::fill_n(accumulators_of(chunk, sample, samples, all), chunk.size, 0.0f);
    SjltTables tables;
    Workspace workspace;
    std::vector<uint32_t> ids;
    plans_[chunk.part].for_chunk(chunk.index, [&](const Block& block) {
      ids.resize(static_cast<size_t>(block.rows));
      std::iota(ids.begin(), ids.end(), static_cast<uint32_t>(block.row));
      tables.make(sketch_, part.key.philox, part.transposed, ids, block.column, block.columns, kernels_);
      for (int64_t sample = begin; sample < end; ++sample)
        if (!part.source->is_empty(first + sample))
          squares_[static_cast<size_t>(index * samples + sample)] +=
              sketch_block(part, block, first + sample, tables, workspace, accumulators_of(chunk, sample, samples, all));
    });
  }

  // The squared norm of the block, if it is wanted.
  double sketch_block(const Part& part, const Block& block, int64_t sample, const SjltTables& tables, Workspace& workspace,
                      float* accumulators) const {
    const State& state = part.state;
    const bool preconditions = state.by.form != Form::none;
    double squares = 0;
    part.source->prepare(sample, block.row, block.rows, workspace);
    const int64_t step = part.source->panel_columns(block.rows);
    for (int64_t column = block.column; column < block.column + block.columns; column += step) {
      const int64_t columns = std::min(step, block.column + block.columns - column);
      const Panel values = part.source->panel(sample, block.row, block.rows, column, columns, preconditions, workspace);
      if (preconditions) precondition_panel(state, workspace, values.step, block.row, block.rows, column, columns, kernels_);
      if (output_.squared_norms != nullptr)
        squares += kernels_.squared_norm(values.values, values.step, block.rows, columns);
      SjltPanel panel = tables.panel(column, columns);
      panel.values = values.values;
      panel.step = values.step;
      kernels_.sjlt(panel, accumulators);
    }
    return squares;
  }

  void finish(int64_t first, int64_t sample, int64_t samples, float* all) const {
    float* const out = output_.sketch + (first + sample) * output_.step;
    std::fill_n(out, sketch_.k, 0.0f);
    double squares = 0;
    for (size_t index = 0; index < chunks_.size(); ++index) {
      const Chunk& chunk = chunks_[index];
      add_sjlt(sketch_, parts_[chunk.part].transposed, accumulators_of(chunk, sample, samples, all), out);
      squares += squares_[index * static_cast<size_t>(samples) + static_cast<size_t>(sample)];
    }
    if (output_.squared_norms != nullptr) output_.squared_norms[first + sample] = static_cast<float>(squares);
  }

  const std::vector<Part>& parts_;
  const Sjlt& sketch_;
  const Output& output_;
  const Kernels& kernels_;
  const int threads_;
  std::vector<Plan> plans_;
  std::vector<Chunk> chunks_;
  int64_t floats_ = 0;  // of a sample's accumulators
  Floats memory_;
  std::vector<double> squares_;  // [chunk][sample]
};

}  // namespace

void sketch_sjlt(const std::vector<Part>& parts, const Sjlt& sketch, const Output& output, const Kernels& kernels,
                 int threads) {
  Pass pass(parts, sketch, output, kernels, threads);
  const int64_t samples = parts.front().source->samples(), step = pass.most_samples();
  for (int64_t first = 0; first < samples; first += step) pass.run(first, std::min(first + step, samples));
}

}  // namespace adaptinf
