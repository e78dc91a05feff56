#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "search.h"

namespace adaptinf::semdedup {
namespace {

// Writes what was found for distinct rows of a cluster in places `first` on. A copy is alike the first of its kind, where
// that counts as a row before, and otherwise alike what that one is alike.
template <typename Counts>
void spread(const Cluster& cluster, int64_t first, const std::vector<Best>& best, const Counts& counts, Found found) {
  for (int64_t place = 0; place < cluster.size(); ++place) {
    const int64_t distinct = cluster.distinct_at(place), original = cluster.place(distinct);
    const Best& of = best[static_cast<size_t>(distinct)];
    const double self = cluster.self_similarity(distinct);
    int64_t before = of.row < 0 ? -1 : first + cluster.place(of.row);
    double similarity = of.row < 0 ? std::nan("") : of.similarity;
    if (place != original && !(similarity >= self) && counts(distinct)) {
      before = first + original;
      similarity = self;
    }
    found.before[first + place] = before;
    found.similarity[first + place] = similarity;
  }
}

void keep_up_to(double threshold, int64_t first, int64_t last, Found found) {
  for (int64_t place = first; place < last; ++place) found.kept[place] = !(found.similarity[place] > threshold);
}

bool every(int64_t) { return true; }

// The most similar row before each distinct row.
std::vector<Best> most_similar(const Cluster& cluster, Components* components, int threads) {
  std::vector<int64_t> rows(static_cast<size_t>(cluster.distinct()));
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<Best> best(rows.size());
  const int64_t blocks = (cluster.distinct() + kSearchColumns - 1) / kSearchColumns;
  parallel_for(blocks, threads, [&](int64_t task) {
    const int64_t block = blocks - 1 - task;  // the longest first
    Search search(cluster, components);
    search.begin(block * kSearchColumns, std::min(cluster.distinct(), (block + 1) * kSearchColumns));
    search.add(rows.data(), search.last(), 0, search.panels());
    for (int64_t id = search.first(); id < search.last(); ++id) best[static_cast<size_t>(id)] = search.best(id);
  });
  return best;
}

// A block of ranks against all kept before it, by all threads, then the block's own rows a panel at a time. Blocks grow while
// few of their rows stay, since then little is left for the second part.
std::vector<Best> most_similar_kept(const Cluster& cluster, double threshold, int threads, std::vector<char>& kept) {
  constexpr int64_t kMostEach = 8;  // searches of a thread
  std::vector<Best> best(static_cast<size_t>(cluster.distinct()));
  std::vector<int64_t> before, of_block;
  std::vector<Search> searches;
  int64_t each = 1;
  for (int64_t start = 0, end = 0; start < cluster.distinct(); start = end) {
    end = std::min(cluster.distinct(), start + threads * each * kSearchColumns);
    const int64_t used = (end - start + kSearchColumns - 1) / kSearchColumns;
    while (static_cast<int64_t>(searches.size()) < used) searches.emplace_back(cluster);
    parallel_for(used, threads, [&](int64_t i) {
      const int64_t first = start + i * kSearchColumns;
      Search& search = searches[static_cast<size_t>(i)];
      search.begin(first, std::min(end, first + kSearchColumns));
      search.add(before.data(), static_cast<int64_t>(before.size()), 0, search.panels());
      for (int64_t id = search.first(); id < search.last(); ++id) search.exceeds(id, threshold);
    });
    of_block.clear();
    for (int64_t i = 0; i < used; ++i) {
      Search& search = searches[static_cast<size_t>(i)];
      for (int64_t panel = 0; panel < search.panels(); ++panel) {
        search.add(of_block.data(), static_cast<int64_t>(of_block.size()), panel, panel + 1);
        search.decide(panel, threshold, [&](int64_t id, const Best& found, bool stays) {
          best[static_cast<size_t>(id)] = found;
          kept[static_cast<size_t>(id)] = stays;
          if (stays) of_block.push_back(id);
        });
      }
    }
    before.insert(before.end(), of_block.begin(), of_block.end());
    each = static_cast<int64_t>(of_block.size()) * 64 < end - start ? std::min(2 * each, kMostEach) : 1;
  }
  return best;
}

}  // namespace

void reference(const Problem& problem, double threshold, Found found, const Machine& machine) {
  for_each_cluster(problem, machine, [&](int64_t, int64_t first, int64_t last, const Machine& by) {
    const Cluster cluster(problem, first, last, by, true);
    spread(cluster, first, most_similar(cluster, nullptr, by.threads), every, found);
    keep_up_to(threshold, first, last, found);
  });
}

void greedy(const Problem& problem, double threshold, Found found, const Machine& machine) {
  for_each_cluster(problem, machine, [&](int64_t, int64_t first, int64_t last, const Machine& by) {
    const Cluster cluster(problem, first, last, by, true);
    std::vector<char> kept(static_cast<size_t>(cluster.distinct()));
    const std::vector<Best> best = most_similar_kept(cluster, threshold, by.threads, kept);
    spread(cluster, first, best, [&](int64_t distinct) { return kept[static_cast<size_t>(distinct)] != 0; }, found);
    keep_up_to(threshold, first, last, found);
  });
}

void components(const Problem& problem, const std::vector<double>& thresholds, const std::vector<Found>& found,
                const Machine& machine) {
  for_each_cluster(problem, machine, [&](int64_t, int64_t first, int64_t last, const Machine& by) {
    const Cluster cluster(problem, first, last, by, true);
    Components joined(thresholds, cluster.distinct());
    const std::vector<Best> best = most_similar(cluster, &joined, by.threads);
    for (size_t i = 0; i < thresholds.size(); ++i) {
      spread(cluster, first, best, every, found[i]);
      for (int64_t place = 0; place < cluster.size(); ++place) {
        const int64_t distinct = cluster.distinct_at(place);
        const bool is_copy = place != cluster.place(distinct);
        const bool is_joined = !is_copy || cluster.self_similarity(distinct) > thresholds[i];
        const int64_t root = is_joined ? cluster.place(joined.root(i, distinct)) : place;
        found[i].kept[first + place] = root == place;
        found[i].before[first + place] = root == place ? -1 : first + root;
      }
    }
  });
}

}  // namespace adaptinf::semdedup
