// Calls native de-duplication on memory of exactly its inputs' sizes, for the sanitizers to watch. Prints how many calls.
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "semdedup/semdedup.h"

using namespace adaptinf;
using namespace adaptinf::semdedup;

namespace {

// Rows `gap` elements apart; some are copies of others, some zero.
struct Owned {
  Owned(int64_t rows, int64_t columns, DType dtype, int64_t gap)
      : step(columns + gap), size((static_cast<int64_t>(dtype) & 0xff) / 8),
        memory(new char[static_cast<size_t>(((rows - 1) * step + columns) * size)]()),
        view{memory.get(), {rows, columns}, {step, 1}, dtype, DeviceType::cpu, 0} {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column) put(row * step + column, row % 7 == 0 ? 0 : row % 61 * 5 + column * row % 13 - 6);
  }
  void put(int64_t at, int64_t value) {
    char* place = memory.get() + at * size;
    const auto wide = static_cast<float>(value);
    const double wider = static_cast<double>(value);
    uint32_t bits;
    std::memcpy(&bits, &wide, 4);
    const auto half = static_cast<uint16_t>(view.dtype == DType::bfloat16 ? bits >> 16 : value == 0 ? 0 : 0x3000 + value);
    if (size == 8) std::memcpy(place, &wider, 8);
    if (size == 4) std::memcpy(place, &wide, 4);
    if (size == 2) std::memcpy(place, &half, 2);
  }
  int64_t step, size;
  std::unique_ptr<char[]> memory;
  TensorView view;
};

struct Results {
  explicit Results(int64_t n) : kept(new int8_t[n]), before(new int64_t[n]), similarity(new double[n]) {}
  Found found() const { return {kept.get(), before.get(), similarity.get()}; }
  std::unique_ptr<int8_t[]> kept;
  std::unique_ptr<int64_t[]> before;
  std::unique_ptr<double[]> similarity;
};

}  // namespace

int main() {
  int calls = 0;
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512})
    for (const bool brain : {false, true}) {
      if (level > cpu_level() || (brain && (level != CpuLevel::avx512 || !has_avx512_bf16()))) continue;
      for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float64})
        for (const auto& [n, columns] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {40, 7}, {700, 33}, {2500, 16}}) {
          const Owned x(n, columns, dtype, 3);
          const Machine machine{level, kernels(level, brain), 2};
          std::vector<int64_t> rows(static_cast<size_t>(n)), bounds{0, 0, n / 9, n}, budgets{0, n / 20, n / 20};
          for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(rows.size() - 1 - i);
          const std::unique_ptr<int64_t[]> exact(new int64_t[rows.size()]);
          std::copy(rows.begin(), rows.end(), exact.get());
          const Problem problem{x.view, exact.get(), bounds.data(), 3};
          const Results one(n), other(n);
          const std::vector<double> thresholds{0.99, -0.5};
          reference(problem, 0.9, one.found(), machine);
          greedy(problem, 0.9, one.found(), machine);
          components(problem, thresholds, {one.found(), other.found()}, machine);
          farthest(problem, budgets.data(), one.found(), machine);
          farthest_of_all(problem, n / 15, exact.get(), one.found(), machine);
          calls += 5;
        }
    }
  std::printf("%d\n", calls);
}
