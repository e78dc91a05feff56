// z_b = 1/k H sum_rho sum_t (H C_rho g_t) o (H C'_rho x_t), a sample's tokens in chunks.
//
// A chunk's sum in the Walsh domain depends on its own tokens alone, and a sample's chunks on its length alone; they are
// added in their order. So the bits depend neither on the threads nor on the other samples.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "../common/always_inline.h"
#include "../common/parallel.h"
#include "xorts.h"

namespace adaptinf {
namespace {

constexpr int kAbreast = 4;          // tokens that are transformed side by side
constexpr int64_t kTerms = 64;       // ids of a vector of buckets summed before their sum is added to the others'
constexpr int64_t kBlock = 64;       // tokens summed before their sum is added to the chunk's
constexpr int64_t kMostChunks = 16;  // of a sample: bounds the memory
constexpr int64_t kRowPad = 48;      // floats between transformed rows, so that they do not share cache sets

int log2_of(int64_t power) { return 63 - __builtin_clzll(static_cast<unsigned long long>(power)); }

struct Side {
  const Matrix& values;
  std::vector<BucketTable> tables;  // per repetition

  Side(const Matrix& matrix, const Codes& codes, int64_t lanes) : values(matrix) {
    for (int64_t repetition = 0; repetition < codes.repetitions; ++repetition) tables.emplace_back(codes, repetition, lanes);
  }
};

struct Chunk {
  int64_t first, last;  // tokens
};

struct Work {
  const Side &g, &x;
  int64_t k, buckets;  // buckets: k, but at least a vector
  const Kernels& kernels;
};

std::vector<Chunk> chunks_of(int64_t start, int64_t stop) {
  const int64_t blocks = (stop - start + kBlock * kMostChunks - 1) / (kBlock * kMostChunks);
  std::vector<Chunk> chunks;
  for (int64_t first = start; first < stop; first += blocks * kBlock)
    chunks.push_back({first, std::min(stop, first + blocks * kBlock)});
  return chunks;
}

// kAbreast rows as float32, from `first` on; those from `last` on are zeros.
void fetch(const Matrix& values, int64_t first, int64_t last, const Kernels& kernels, float* wide, const float* zeros,
           const float** rows) {
  for (int i = 0; i < kAbreast; ++i, wide += values.columns) {
    const int64_t token = first + i;
    if (token >= last) {
      rows[i] = zeros;
    } else if (values.dtype == DType::float32) {
      rows[i] = values.floats(token, 0);
    } else {
      kernels.widen(values.at(token, 0), values.dtype, values.step, 1, values.columns, wide, values.columns);
      rows[i] = wide;
    }
  }
}

int64_t scratch_floats(const Work& work) {
  const int64_t widest = std::max(work.g.values.columns, work.x.values.columns);
  return (2 * kAbreast + 1) * (work.buckets + kRowPad + widest);
}

struct Bodies {
  int64_t lanes;
  void (*sum_chunk)(const Work&, const Chunk&, float*, float*);
  void (*finish)(const Work&, int64_t, float*, float*);
};

namespace portable {
#define ADAPTINF_VECTOR_BYTES 16
#include "transform_body.h"
}  // namespace portable

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define ADAPTINF_VECTOR_BYTES 32
#include "transform_body.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
namespace avx512 {
#define ADAPTINF_VECTOR_BYTES 64
#include "transform_body.h"
}  // namespace avx512
#pragma GCC pop_options

#endif

const Bodies& bodies(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return avx512::kBodies;
  if (level == CpuLevel::avx2) return avx2::kBodies;
#endif
  (void)level;
  return portable::kBodies;
}

}  // namespace

void transform_xorts(const Matrix& grad_out, const Codes& rows, const Matrix& x, const Codes& columns,
                     const std::vector<int64_t>& bounds, const Output& output, CpuLevel level, int threads) {
  const Bodies& body = bodies(level);
  const Side g_side(grad_out, rows, body.lanes), x_side(x, columns, body.lanes);
  const Work work{g_side, x_side, rows.k, std::max(rows.k, body.lanes), kernels(level)};
  std::vector<Chunk> chunks;
  std::vector<int64_t> first_chunk{0};  // per sample
  for (size_t sample = 0; sample + 1 < bounds.size(); ++sample) {
    for (const Chunk& chunk : chunks_of(bounds[sample], bounds[sample + 1])) chunks.push_back(chunk);
    first_chunk.push_back(static_cast<int64_t>(chunks.size()));
  }

  Floats memory;
  const auto count = static_cast<int64_t>(chunks.size());
  float* const sums = memory.reserve(count * work.buckets);
  std::atomic<int64_t> next{0};
  parallel_for(std::min<int64_t>(threads, count), threads, [&](int64_t) {
    Floats scratch;
    scratch.reserve(scratch_floats(work));
    for (int64_t i = next++; i < count; i = next++)
      body.sum_chunk(work, chunks[static_cast<size_t>(i)], scratch.reserve(0), sums + i * work.buckets);
  });
  parallel_for(static_cast<int64_t>(bounds.size()) - 1, threads, [&](int64_t sample) {
    const int64_t first = first_chunk[static_cast<size_t>(sample)], last = first_chunk[static_cast<size_t>(sample) + 1];
    body.finish(work, last - first, sums + first * work.buckets, output.sketch + sample * output.step);
  });
}

}  // namespace adaptinf
