// Connected components of the pairs of rows above each of some thresholds, fed by several threads in any order.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace adaptinf::semdedup {

class Components {
 public:
  Components(const std::vector<double>& thresholds, int64_t rows) : thresholds_(thresholds) {
    for (size_t i = 0; i < thresholds.size(); ++i) {
      parents_.emplace_back(static_cast<size_t>(rows));
      for (int64_t row = 0; row < rows; ++row) parents_[i][static_cast<size_t>(row)].store(row, std::memory_order_relaxed);
    }
  }

  const std::vector<double>& thresholds() const { return thresholds_; }

  // The first row of a row's component, once all pairs are in.
  int64_t root(size_t threshold, int64_t row) {
    std::vector<std::atomic<int64_t>>& parents = parents_[threshold];
    for (;;) {
      const int64_t parent = at(parents, row), above = at(parents, parent);
      if (parent == above) return parent;
      // parents only move towards the root, so that a race costs a step at most
      parents[static_cast<size_t>(row)].store(above, std::memory_order_relaxed);
      row = above;
    }
  }

  bool joined(size_t threshold, int64_t a, int64_t b) { return root(threshold, a) == root(threshold, b); }

  void join(size_t threshold, int64_t a, int64_t b) {
    for (;;) {
      a = root(threshold, a);
      b = root(threshold, b);
      if (a == b) return;
      if (a < b) std::swap(a, b);
      int64_t expected = a;  // still a root?
      if (parents_[threshold][static_cast<size_t>(a)].compare_exchange_strong(expected, b)) return;
    }
  }

 private:
  static int64_t at(const std::vector<std::atomic<int64_t>>& parents, int64_t row) {
    return parents[static_cast<size_t>(row)].load(std::memory_order_relaxed);
  }

  const std::vector<double>& thresholds_;
  std::vector<std::vector<std::atomic<int64_t>>> parents_;
};

}  // namespace adaptinf::semdedup
