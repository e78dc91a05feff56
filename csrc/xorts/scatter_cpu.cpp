// Gradients formed in panels, every entry moved to its bucket.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "../common/parallel.h"
#include "xorts.h"

namespace adaptinf {
namespace {

constexpr int64_t kBlockRows = 160;              // of the scalar side
constexpr int64_t kBlockEntries = 1 << 16;       // about
constexpr int64_t kBlockColumns = 512;           // at least
constexpr int64_t kMostChunks = 8;               // of a part, each with accumulators of its own
constexpr int64_t kAccumulatorFloats = 1 << 24;  // at once
constexpr int64_t kTermsPerBucket = 64;         // about, before they are added to the others'
constexpr uint32_t kSignBit = 0x80000000u;

struct Block {
  int64_t row, rows, column, columns;  // scalar side, vector side
};

// Consecutive blocks of a part, one after the other. They depend on the parameter's shape alone.
struct Chunk {
  const Part* part;
  std::vector<Block> blocks;
};

void add_chunks(const Part& part, std::vector<Chunk>& chunks) {
  const int64_t scalars = part.transposed ? part.columns : part.rows, vectors = part.transposed ? part.rows : part.columns;
  const int64_t rows = piece_size(scalars, kBlockRows, 4);
  const int64_t target = std::max(kBlockColumns, kBlockEntries / std::max<int64_t>(1, std::min(rows, scalars)));
  const int64_t columns = piece_size(vectors, target, kPanel);
  std::vector<Block> blocks;
  for (int64_t row = 0; row < scalars; row += rows)
    for (int64_t column = 0; column < vectors; column += columns)
      blocks.push_back({row, std::min(rows, scalars - row), column, std::min(columns, vectors - column)});
  const auto all = static_cast<int64_t>(blocks.size()), count = std::min(kMostChunks, all);
  for (int64_t chunk = 0; chunk < count; ++chunk)
    chunks.push_back({&part, {blocks.begin() + chunk * all / count, blocks.begin() + (chunk + 1) * all / count}});
}

// Adds the block to the sum, if there is one; returns its squared norm, if it is wanted.
double add_block(const Part& part, const Block& block, int64_t sample, bool norms, const Kernels& kernels,
                 Workspace& workspace, XortsSum* sum) {
  const Codes& scalars = part.transposed ? part.key.columns : part.key.rows;
  const Codes& vectors = part.transposed ? part.key.rows : part.key.columns;
  double squares = 0;
  part.source->prepare(sample, block.row, block.rows, workspace);
  for (int64_t column = block.column; column < block.column + block.columns; column += kPanel) {
    const int64_t columns = std::min(kPanel, block.column + block.columns - column);
    const Panel panel = part.source->panel(sample, block.row, block.rows, column, columns, false, workspace);
    if (norms) squares += kernels.squared_norm(panel.values, panel.step, block.rows, columns);
    if (sum != nullptr) sum->add(panel, scalars, block.row, block.rows, vectors, column, columns);
  }
  return squares;
}

inline __attribute__((always_inline)) void add_row(const float* from, int64_t count, const uint32_t* buckets,
                                                   const uint32_t* signs, uint32_t bucket, uint32_t sign, float* to) {
  uint32_t at[kPanel], bits[kPanel];
  float values[kPanel];
  std::memcpy(bits, from, static_cast<size_t>(count) * sizeof(float));
  for (int64_t j = 0; j < count; ++j) at[j] = buckets[j] ^ bucket;
  for (int64_t j = 0; j < count; ++j) bits[j] ^= signs[j] ^ sign;
  std::memcpy(values, bits, static_cast<size_t>(count) * sizeof(float));
  for (int64_t j = 0; j < count; ++j) to[at[j]] += values[j];
}

}  // namespace

XortsSum::XortsSum(int64_t k, float* out) : out_(out), part_(static_cast<size_t>(k), 0.0f) { std::fill_n(out, k, 0.0f); }

void XortsSum::add(const Panel& panel, const Codes& scalars, int64_t row, int64_t rows, const Codes& vectors, int64_t column,
                   int64_t columns) {
  const auto most = kTermsPerBucket * static_cast<int64_t>(part_.size());
  float* const part = part_.data();
  for (int64_t repetition = 0; repetition < scalars.repetitions; ++repetition)
    for (int64_t first = 0; first < columns; first += kPanel) {
      const int64_t count = std::min(kPanel, columns - first);
      uint32_t buckets[kPanel] = {}, signs[kPanel] = {};
      for (int64_t j = 0; j < count; ++j) {
        buckets[j] = vectors.bucket(repetition, column + first + j);
        signs[j] = vectors.negative(repetition, column + first + j) ? kSignBit : 0;
      }
      for (int64_t i = 0; i < rows; ++i) {
        const uint32_t bucket = scalars.bucket(repetition, row + i);
        const uint32_t sign = scalars.negative(repetition, row + i) ? kSignBit : 0;
        const float* const from = panel.values + i * panel.step + first;
        if (count == kPanel)  // most often, and unrolled
          add_row(from, kPanel, buckets, signs, bucket, sign, part);
        else
          add_row(from, count, buckets, signs, bucket, sign, part);
        if ((terms_ += count) >= most) flush();
      }
    }
}

void XortsSum::flush() {
  for (size_t i = 0; i < part_.size(); ++i) out_[i] += part_[i];
  std::fill(part_.begin(), part_.end(), 0.0f);
  terms_ = 0;
}

void sketch_xorts(const std::vector<Part>& parts, int64_t k, const Output& output, const Kernels& kernels, int threads) {
  std::vector<Chunk> chunks;
  for (const Part& part : parts) add_chunks(part, chunks);
  const auto count = static_cast<int64_t>(chunks.size());
  const bool norms = output.squared_norms != nullptr;
  const int64_t all = parts.front().source->samples();
  const int64_t most = std::max<int64_t>(1, kAccumulatorFloats / std::max<int64_t>(k * count, 1));
  Floats memory;
  for (int64_t first = 0; first < all; first += most) {
    const int64_t samples = std::min(most, all - first);
    float* const sums = memory.reserve(samples * count * k);  // [samples][chunks][k]
    std::vector<double> squares(static_cast<size_t>(samples * count), 0.0);
    parallel_for(samples * count, threads, [&](int64_t task) {
      const Chunk& chunk = chunks[static_cast<size_t>(task % count)];
      const int64_t sample = first + task / count;
      XortsSum sum(k, sums + task * k);
      if (chunk.part->source->is_empty(sample)) return;
      Workspace workspace;
      for (const Block& block : chunk.blocks)
        squares[static_cast<size_t>(task)] += add_block(*chunk.part, block, sample, norms, kernels, workspace, &sum);
      sum.flush();
    });
    parallel_for(samples, threads, [&](int64_t sample) {
      float* const z = output.sketch + (first + sample) * output.step;
      std::fill_n(z, k, 0.0f);
      double square = 0;
      for (int64_t chunk = sample * count; chunk < (sample + 1) * count; ++chunk) {
        for (int64_t i = 0; i < k; ++i) z[i] += sums[chunk * k + i];
        square += squares[static_cast<size_t>(chunk)];
      }
      if (norms) output.squared_norms[first + sample] = static_cast<float>(square);
    });
  }
}

void squared_norms(const Part& part, const Output& output, const Kernels& kernels, int threads) {
  std::vector<Chunk> chunks;
  add_chunks(part, chunks);
  const auto count = static_cast<int64_t>(chunks.size());
  const int64_t samples = part.source->samples();
  std::vector<double> squares(static_cast<size_t>(samples * count), 0.0);
  parallel_for(samples * count, threads, [&](int64_t task) {
    const int64_t sample = task / count;
    if (part.source->is_empty(sample)) return;
    Workspace workspace;
    for (const Block& block : chunks[static_cast<size_t>(task % count)].blocks)
      squares[static_cast<size_t>(task)] += add_block(part, block, sample, true, kernels, workspace, nullptr);
  });
  for (int64_t sample = 0; sample < samples; ++sample) {
    const auto first = squares.begin() + sample * count;
    output.squared_norms[sample] = static_cast<float>(std::accumulate(first, first + count, 0.0));
  }
}

bool transform_is_cheaper(int64_t rows, int64_t columns, int64_t k, int64_t repetitions) {
  // in hundredths of a nanosecond per token of a sample of 128, measured on one core with AVX-512
  const double entries = static_cast<double>(rows) * static_cast<double>(columns);
  const double formed = entries * (0.97 + 0.54 * static_cast<double>(repetitions));
  const double sides = 25.0 * (static_cast<double>(rows) + static_cast<double>(columns));
  const double levels = 63 - __builtin_clzll(static_cast<unsigned long long>(k));
  return static_cast<double>(repetitions) * (sides + 1.6 * static_cast<double>(k) * levels) < formed;
}

}  // namespace adaptinf
