#include "refill.h"

#include <algorithm>

namespace adaptinf::kmeans {
namespace {

struct Candidate {
  double distance;
  int64_t row;
  // The better one is greater.
  bool operator<(const Candidate& other) const {
    return distance != other.distance ? distance < other.distance : row > other.row;
  }
};

class Heap {
 public:
  explicit Heap(std::vector<Candidate> candidates) : candidates_(std::move(candidates)) {
    std::make_heap(candidates_.begin(), candidates_.end());
  }
  bool empty() const { return candidates_.empty(); }
  int64_t take() {
    std::pop_heap(candidates_.begin(), candidates_.end());
    const int64_t row = candidates_.back().row;
    candidates_.pop_back();
    return row;
  }

 private:
  std::vector<Candidate> candidates_;
};

std::vector<Candidate> candidates(const Problem& problem, const double* distances, const std::vector<int64_t>& sizes) {
  std::vector<Candidate> found;
  for (int64_t row = 0; row < problem.rows.count; ++row)
    if (distances[row] > problem.frame.rounding && sizes[static_cast<size_t>(problem.labels[row])] > 1 &&
        (problem.weights == nullptr || problem.weights[row] > 0))
      found.push_back({distances[row], row});
  return found;
}

// The next row of all that may leave, or -1.
int64_t farthest(Heap& heap, const int64_t* labels, const std::vector<int64_t>& sizes) {
  while (!heap.empty()) {
    const int64_t row = heap.take();
    if (sizes[static_cast<size_t>(labels[row])] > 1) return row;
  }
  return -1;
}

int64_t farthest_of_largest(std::vector<Heap>& members, const std::vector<int64_t>& sizes) {
  int64_t largest = -1;
  for (size_t j = 0; j < members.size(); ++j)
    if (!members[j].empty() && sizes[j] > 1 && (largest < 0 || sizes[j] > sizes[static_cast<size_t>(largest)]))
      largest = static_cast<int64_t>(j);
  return largest < 0 ? -1 : members[static_cast<size_t>(largest)].take();
}

}  // namespace

std::vector<Move> refill(Empty policy, const Problem& problem, const double* distances, std::vector<int64_t> sizes) {
  std::vector<int32_t> vacant;
  for (size_t j = 0; j < sizes.size(); ++j)
    if (sizes[j] == 0) vacant.push_back(static_cast<int32_t>(j));
  std::vector<Candidate> all = candidates(problem, distances, sizes);
  std::vector<Heap> members;
  if (policy == Empty::split) {
    std::vector<std::vector<Candidate>> parts(sizes.size());
    for (const Candidate& one : all) parts[static_cast<size_t>(problem.labels[one.row])].push_back(one);
    for (auto& part : parts) members.emplace_back(std::move(part));
    all.clear();
  }
  Heap heap(std::move(all));
  std::vector<Move> moves;
  for (const int32_t cluster : vacant) {
    const int64_t row = policy == Empty::split ? farthest_of_largest(members, sizes) : farthest(heap, problem.labels, sizes);
    if (row < 0) break;
    const auto label = static_cast<int32_t>(problem.labels[row]);
    --sizes[static_cast<size_t>(label)];
    moves.push_back({row, label, cluster});
  }
  return moves;
}

}  // namespace adaptinf::kmeans
