// z_b = 1/k H sum_rho sum_t (H C_rho g_t) o (H C'_rho x_t), a sample's tokens in chunks.
//
// A chunk's sum in the Walsh domain depends on its own tokens alone, and a sample's chunks on its length alone; they are
// added in their order. So the bits depend neither on the threads nor on the other samples.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "../common/parallel.h"
#include "walsh.h"
#include "xorts.h"

namespace adaptinf {
namespace {

constexpr int kAbreast = 4;          // tokens that are transformed side by side
constexpr int64_t kBlock = 64;       // tokens summed before their sum is added to the chunk's
constexpr int64_t kMostChunks = 16;  // of a sample: bounds the memory
constexpr int64_t kRowPad = 48;      // floats between transformed rows, so that they do not share cache sets

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

template <int W, int MostTop>
ADAPTINF_ALWAYS void spread_any(const BucketTable& table, int64_t n, int64_t top, const float* const* rows,
                                Vector<W>* const* out) {
  if (top == 1)
    spread<W, kAbreast, 1>(table, n, rows, out);
  else if (top == 2)
    spread<W, kAbreast, 2>(table, n, rows, out);
  else
    spread<W, kAbreast, MostTop>(table, n, rows, out);
}

template <int W, int MostRun>
ADAPTINF_ALWAYS void multiply_add_any(Vector<W>* const* g, Vector<W>* const* x, int64_t n, int64_t run, Vector<W>* sum) {
  if (run == 1)
    multiply_add<W, kAbreast, 1>(g, x, n, sum);
  else if (run == 2)
    multiply_add<W, kAbreast, 2>(g, x, n, sum);
  else if (run == 4)
    multiply_add<W, kAbreast, 4>(g, x, n, sum);
  else
    multiply_add<W, kAbreast, MostRun>(g, x, n, sum);
}

int64_t scratch_floats(const Work& work) {
  const int64_t widest = std::max(work.g.values.columns, work.x.values.columns);
  return (2 * kAbreast + 1) * (work.buckets + kRowPad + widest);
}

// The chunk's sum in the Walsh domain. Of the levels that act on whole vectors, the first step of a transform does
// log2(top) and the last log2(run) in registers; what is left between is done in place, segment by segment.
template <int W, int MostTop, int MostRadix, int MostRun>
ADAPTINF_ALWAYS void sum_chunk(const Work& work, const Chunk& chunk, float* scratch, float* result) {
  const int64_t n = work.buckets / W, run = std::min<int64_t>(n, MostRun);
  const int64_t top = std::clamp<int64_t>(n / (8 * run), 1, MostTop), segment = n / top;
  const int64_t widest = std::max(work.g.values.columns, work.x.values.columns);
  Vector<W>* g[kAbreast];
  Vector<W>* x[kAbreast];
  for (int i = 0; i < kAbreast; ++i) {
    g[i] = reinterpret_cast<Vector<W>*>(scratch + 2 * i * (work.buckets + kRowPad));
    x[i] = reinterpret_cast<Vector<W>*>(scratch + (2 * i + 1) * (work.buckets + kRowPad));
  }
  auto* const block_sum = reinterpret_cast<Vector<W>*>(scratch + 2 * kAbreast * (work.buckets + kRowPad));
  float* const zeros = scratch + (2 * kAbreast + 1) * (work.buckets + kRowPad);
  auto* const total = reinterpret_cast<Vector<W>*>(result);
  std::fill_n(zeros, widest, 0.0f);
  std::fill_n(result, work.buckets, 0.0f);

  for (int64_t block = chunk.first; block < chunk.last; block += kBlock) {
    const int64_t last = std::min(chunk.last, block + kBlock);
    for (int64_t b = 0; b < n; ++b) block_sum[b] = Vector<W>{};
    for (int64_t token = block; token < last; token += kAbreast) {
      const float* g_rows[kAbreast];
      const float* x_rows[kAbreast];
      fetch(work.g.values, token, last, work.kernels, zeros + widest, zeros, g_rows);
      fetch(work.x.values, token, last, work.kernels, zeros + (1 + kAbreast) * widest, zeros, x_rows);
      for (size_t repetition = 0; repetition < work.g.tables.size(); ++repetition) {
        spread_any<W, MostTop>(work.g.tables[repetition], n, top, g_rows, g);
        spread_any<W, MostTop>(work.x.tables[repetition], n, top, x_rows, x);
        for (int64_t at = 0; at < n; at += segment) {
          Vector<W>*g_at[kAbreast], *x_at[kAbreast];
          for (int i = 0; i < kAbreast; ++i) {
            g_at[i] = g[i] + at;
            x_at[i] = x[i] + at;
            levels_above<W, MostRadix>(g_at[i], segment, run);
            levels_above<W, MostRadix>(x_at[i], segment, run);
          }
          multiply_add_any<W, MostRun>(g_at, x_at, segment, run, block_sum + at);
        }
      }
    }
    for (int64_t b = 0; b < n; ++b) total[b] += block_sum[b];
  }
}

// A sample's sums, [count][buckets], added up in their order and transformed back.
template <int W>
ADAPTINF_ALWAYS void finish(const Work& work, int64_t count, float* sums, float* z) {
  if (count == 0) {
    std::fill_n(z, work.k, 0.0f);
    return;
  }
  const int64_t n = work.buckets / W;
  auto* const total = reinterpret_cast<Vector<W>*>(sums);
  for (int64_t chunk = 1; chunk < count; ++chunk)
    for (int64_t b = 0; b < n; ++b) total[b] += total[chunk * n + b];
  walsh_hadamard<W>(total, n);
  for (int64_t i = 0; i < work.k; ++i) z[i] = sums[i] / static_cast<float>(work.buckets);
}

struct Bodies {
  int64_t lanes;
  void (*sum_chunk)(const Work&, const Chunk&, float*, float*);
  void (*finish)(const Work&, int64_t, float*, float*);
};

// One body, compiled per instruction set, with as many vectors abreast as its registers hold.
#define ADAPTINF_BODIES(name, target, W, MostTop, MostRadix, MostRun)                               \
  target void sum_chunk_##name(const Work& work, const Chunk& chunk, float* scratch, float* result) { \
    sum_chunk<W, MostTop, MostRadix, MostRun>(work, chunk, scratch, result);                          \
  }                                                                                                   \
  target void finish_##name(const Work& work, int64_t count, float* sums, float* z) {                \
    finish<W>(work, count, sums, z);                                                                  \
  }                                                                                                   \
  constexpr Bodies k_##name{W, sum_chunk_##name, finish_##name};

ADAPTINF_BODIES(portable, , 4, 2, 8, 4)
#if defined(__x86_64__)
ADAPTINF_BODIES(avx2, __attribute__((target("avx2,fma"))), 8, 2, 8, 4)
ADAPTINF_BODIES(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), 16, 4, 16, 8)
#endif

Bodies bodies(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return k_avx512;
  if (level == CpuLevel::avx2) return k_avx2;
#endif
  (void)level;
  return k_portable;
}

}  // namespace

void transform_xorts(const Matrix& grad_out, const Codes& rows, const Matrix& x, const Codes& columns,
                     const std::vector<int64_t>& bounds, const Output& output, CpuLevel level, int threads) {
  const Bodies body = bodies(level);
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
