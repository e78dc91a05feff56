#include <cmath>
#include <limits>
#include <memory>
#include <queue>
#include <tuple>
#include <vector>

#include "cluster.h"

namespace adaptinf::semdedup {
namespace {

constexpr int64_t kBlock = 512;  // distinct rows of a task
constexpr double kNothing = -std::numeric_limits<double>::infinity();

// Farthest first in one cluster, a row at a time: the open row least similar to all kept ones, ties to the first.
class Farthest {
 public:
  Farthest(const Problem& problem, int64_t first, int64_t last, Found found, const Machine& machine)
      : first_(first), threads_(machine.threads), found_(found), cluster_(problem, first, last, machine, false), scratch_(cluster_.width()),
        unit_(static_cast<size_t>(cluster_.width())), items_(static_cast<size_t>(cluster_.distinct())),
        next_of_kind_(static_cast<size_t>(cluster_.size()), -1) {
    std::vector<int64_t> latest(items_.size(), -1);
    for (int64_t place = 0; place < cluster_.size(); ++place) {
      found_.kept[first_ + place] = 0;
      const auto kind = static_cast<size_t>(cluster_.distinct_at(place));
      (latest[kind] < 0 ? items_[kind].place : next_of_kind_[static_cast<size_t>(latest[kind])]) = place;
      latest[kind] = place;
    }
    choose();
  }

  // What comes next, from 0; -1 where every row is kept.
  int64_t place() const { return next_ < 0 ? -1 : items_[static_cast<size_t>(next_)].place; }
  double similarity() const { return items_[static_cast<size_t>(next_)].similarity; }

  void keep() {
    Item& item = items_[static_cast<size_t>(next_)];
    const int64_t place = item.place;
    write(place, item);
    found_.kept[first_ + place] = 1;
    item.place = next_of_kind_[static_cast<size_t>(place)];
    if (!item.is_kept) {
      item.is_kept = true;
      const double self = cluster_.self_similarity(next_);
      if (!(item.similarity >= self)) item = {item.place, place, self, true};
      compare_with(next_, place);
    }
    choose();
  }

  // Writes the rows that stay out.
  void finish() {
    for (const Item& item : items_)
      for (int64_t place = item.place; place >= 0; place = next_of_kind_[static_cast<size_t>(place)]) write(place, item);
  }

 private:
  struct Item {  // a distinct row
    int64_t place = -1;   // the first of its kind that is open
    int64_t before = -1;  // the kept row that it is most alike
    double similarity = kNothing;
    bool is_kept = false;
  };

  void write(int64_t place, const Item& item) {
    found_.before[first_ + place] = item.before < 0 ? -1 : first_ + item.before;
    found_.similarity[first_ + place] = item.before < 0 ? std::nan("") : item.similarity;
  }

  void choose() {
    next_ = -1;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      if (item.place < 0) continue;
      const bool is_less = next_ < 0 || item.similarity < similarity();
      if (is_less || (item.similarity == similarity() && item.place < place())) next_ = static_cast<int64_t>(i);
    }
  }

  void compare_with(int64_t kept, int64_t place) {
    cluster_.unit(kept, scratch_, unit_.data());
    const int64_t rows = cluster_.distinct();
    parallel_for((rows + kBlock - 1) / kBlock, threads_, [&](int64_t block) {
      Scratch scratch(cluster_.width());
      for (int64_t row = block * kBlock; row < std::min(rows, (block + 1) * kBlock); ++row) {
        Item& item = items_[static_cast<size_t>(row)];
        if (item.is_kept) continue;
        cluster_.unit(row, scratch, scratch.unit.data());
        const double similarity = cluster_.similarity(unit_.data(), scratch.unit.data());
        if (similarity > item.similarity) {
          item.similarity = similarity;
          item.before = place;
        }
      }
    });
  }

  const int64_t first_;
  const int threads_;
  const Found found_;
  Cluster cluster_;
  Scratch scratch_;
  std::vector<float> unit_;
  std::vector<Item> items_;
  std::vector<int64_t> next_of_kind_;  // per place
  int64_t next_ = -1;
};

}  // namespace

void farthest(const Problem& problem, const int64_t* budgets, Found found, const Machine& machine) {
  for_each_cluster(problem, machine, [&](int64_t cluster, int64_t first, int64_t last, const Machine& by) {
    Farthest order(problem, first, last, found, by);
    for (int64_t i = 0; i < budgets[cluster]; ++i) order.keep();
    order.finish();
  });
}

void farthest_of_all(const Problem& problem, int64_t budget, const int64_t* ranks, Found found, const Machine& machine) {
  std::vector<std::unique_ptr<Farthest>> orders(static_cast<size_t>(problem.clusters));
  for_each_cluster(problem, machine, [&](int64_t cluster, int64_t first, int64_t last, const Machine& by) {
    orders[static_cast<size_t>(cluster)] = std::make_unique<Farthest>(problem, first, last, found, by);
  });
  using Entry = std::tuple<double, int64_t, int64_t>;  // similarity, rank, cluster
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> next;
  const auto enter = [&](int64_t cluster) {
    const std::unique_ptr<Farthest>& order = orders[static_cast<size_t>(cluster)];
    if (order && order->place() >= 0)
      next.emplace(order->similarity(), ranks[problem.bounds[cluster] + order->place()], cluster);
  };
  for (int64_t cluster = 0; cluster < problem.clusters; ++cluster) enter(cluster);
  for (int64_t i = 0; i < budget; ++i) {
    const int64_t cluster = std::get<2>(next.top());
    next.pop();
    orders[static_cast<size_t>(cluster)]->keep();
    enter(cluster);
  }
  for (const std::unique_ptr<Farthest>& order : orders)
    if (order) order->finish();
}

}  // namespace adaptinf::semdedup
