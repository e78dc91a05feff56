// Calls the native k-means on memory of exactly its inputs' sizes, for the sanitizers to watch. Prints how many calls it made.
#include <cstdio>
#include <memory>
#include <vector>

#include "kmeans/kmeans.h"

using namespace adaptinf;
using namespace adaptinf::kmeans;

namespace {

int64_t size_of(DType dtype) { return (static_cast<int64_t>(dtype) & 0xff) / 8; }

template <class T>
std::unique_ptr<T[]> numbers(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]());
}

}  // namespace

int main() {
  int calls = 0;
  std::vector<Execution> ways;
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512})
    if (level <= cpu_level()) ways.push_back({level, false, 2});
  if (has_avx512_bf16()) ways.push_back({CpuLevel::avx512, true, 2});
  const std::vector<std::vector<int64_t>> shapes{{1, 1, 1}, {7, 3, 7}, {49, 15, 9}, {131, 33, 17}, {700, 64, 16}, {90, 301, 40}};
  for (const Execution& how : ways)
    for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float64})
      for (const auto& shape : shapes)
        for (const bool unit : {false, true})
          for (const Empty empty : {Empty::farthest, Empty::split, Empty::keep}) {
            const int64_t n = shape[0], d = shape[1], k = shape[2], padded = padded_to(d, 8), bytes = n * d * size_of(dtype);
            const auto x = numbers<char>(bytes);
            for (int64_t i = 0; i < bytes; ++i) x[static_cast<size_t>(i)] = static_cast<char>(i * 7 % 61);
            const auto origin = numbers<double>(padded), weights = numbers<double>(n), radii = numbers<double>(k);
            const auto away = numbers<double>(n * k);
            const auto state = numbers<float>(k * d);
            for (int64_t i = 0; i < k * d; ++i) state[static_cast<size_t>(i)] = static_cast<float>(i % 5 == 0 ? i % 13 : 0) * 1e-3f;
            for (int64_t i = 0; i < n; ++i) weights[static_cast<size_t>(i)] = static_cast<double>(i % 3);
            const auto labels = numbers<int64_t>(n * k), sums = numbers<int64_t>(k * d), sizes = numbers<int64_t>(k),
                       heavy = numbers<int64_t>(k), totals = numbers<int64_t>(3);
            const Rows rows{x.get(), dtype, d, n, d, padded, origin.get(), unit};
            const State centroids{state.get(), DType::float32, k, d};
            const Frame frame{0x1p20, 0x1p20, 0x1p20, 1e-9};
            const auto low = numbers<double>(d), high = numbers<double>(d);
            extremes(rows, low.get(), high.get(), how);
            column_sums(rows, 0x1p10, sums.get(), how);
            square_sum(rows, 0x1p10, how);
            distances(rows, centroids, weights.get(), away.get(), how);
            assign(rows, centroids, 1, false, labels.get(), away.get(), how);
            assign(rows, centroids, k, false, labels.get(), away.get(), how);
            accumulate(rows, centroids, weights.get(), frame, true,
                       {labels.get(), away.get(), sums.get(), heavy.get(), sizes.get(), totals.get()}, how);
            const Problem whole{rows, frame, weights.get(), centroids, 0, labels.get(), sizes.get(), heavy.get(), radii.get(),
                                totals.get(), totals.get() + 1, totals.get() + 2, {}};
            fit({whole}, {false, 4, empty, false}, how);
            fit({whole}, {true, 2, empty, true}, how);
            const auto known = numbers<int64_t>(n), hashed = numbers<int64_t>(n), products = numbers<int64_t>(1);
            const auto upper = numbers<double>(n), lower = numbers<double>(n);
            hashes(rows, hashed.get(), how);
            for (int64_t i = 0; i < n; ++i) known[static_cast<size_t>(i)] = i % (k + 1) - 1;
            Problem again = whole;
            again.known = {known.get(), upper.get(), lower.get(), products.get()};
            fit({again}, {false, 2, empty, false}, how);
            fit({again}, {false, 2, empty, false}, how);
            constexpr int64_t kCandidates = 3;
            const auto draws = numbers<int64_t>(1 + (k - 1) * kCandidates);
            for (int64_t i = 0; i < 1 + (k - 1) * kCandidates; ++i)
              draws[static_cast<size_t>(i)] = static_cast<int64_t>(static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15 >> 1);
            plus_plus({{rows, frame, weights.get(), k, kCandidates, draws.get(), labels.get()}}, how);
            plus_plus({{rows, frame, nullptr, 1, kCandidates, draws.get(), labels.get()}}, how);
            calls += 14;
          }
  std::printf("%d\n", calls);
}
