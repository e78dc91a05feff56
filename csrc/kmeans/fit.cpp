// Lloyd's iteration of one problem, and of many.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "../common/parallel.h"
#include "bounds.h"
#include "kmeans.h"
#include "refill.h"
#include "sums.h"

namespace adaptinf::kmeans {
namespace {

constexpr int64_t kBlock = 512;  // rows of a task that goes over all of them
constexpr int64_t kTiles = 16;   // tiles of such a task
constexpr int64_t kAhead = 8;    // rows whose memory is asked for before they are read

// Up to so many clusters, and so many words of packed rows (they stay in the second-level cache), a whole tile is screened
// where one of its rows is wanted: gathering rows would take as long as screening them.
constexpr int64_t kFewClusters = 32, kFewWords = 128 * 1024;

// Where tiles are screened whole and fewer than one of kFewKept is passed over, bounds cost more than they save: so many
// iterations then go without.
constexpr int64_t kFewKept = 8, kRest = 3;

int64_t tasks_for(int64_t rows, int64_t block) { return (rows + block - 1) / block; }

class Lloyd {
 public:
  Lloyd(const Problem& problem, const Options& options, const Execution& how)
      : problem_(problem), options_(options), threads_(how.threads), rows_(problem_.rows),
        kernels_(kernels(how.level, how.brain)),
        packing_(kernels_, rows_.columns, screen_scale(problem.frame, rows_.columns), options.fast),
        centroids_(kernels_, packing_, rows_, problem.state.count), assignment_(kernels_, packing_, rows_, centroids_),
        sums_(kernels_, rows_, problem_.frame, problem.weights, problem.state.count), bounds_(kernels_, rows_),
        n_tiles_(tasks_for(rows_.count, kernels_.tile_rows)),
        tiled_(problem.state.count <= kFewClusters && rows_.count * packing_.words <= kFewWords),
        packed_(n_tiles_ * kernels_.tile_rows * packing_.words), is_packed_(rows_.count),
        labels_(n_tiles_ * kernels_.tile_rows), wanted_(n_tiles_) {}

  void run() {
    if (tiled_) pack_tiles(kernels_, packing_, rows_, packed_.get(), bounds_.norms(), threads_);
    else std::fill(is_packed_.get(), is_packed_.get() + rows_.count, uint8_t{0});
    centroids_.set(problem_.state, threads_);
    std::fill(labels_.get(), labels_.get() + n_tiles_ * kernels_.tile_rows, 0);
    for (int64_t tile = 0; tile < n_tiles_; ++tile) wanted_[tile] = rows_of(tile);
    if (problem_.known.labels != nullptr && !options_.fast) recall();
    assign();
    bounds_.close();
    moves_.clear();  // at first all rows join a cluster
    moves_.reserve(static_cast<size_t>(rows_.count));
    for (int64_t row = 0; row < rows_.count; ++row) moves_.push_back({row, -1, labels_[row]});
    joined_ = true;
    int64_t n_iter = 0, changed = 0, inertia = options_.by_inertia ? measure(nullptr, nullptr) : 0;
    for (bool settled = false; n_iter < options_.max_iter && !settled; ++n_iter) {
      sums_.apply(moves_, threads_);
      const double moved = update();
      select();
      assign();
      changed = static_cast<int64_t>(moves_.size());
      if (options_.by_inertia) {
        const int64_t before = inertia;
        inertia = measure(nullptr, nullptr);
        settled = changed == 0 || static_cast<double>(before - inertia) <= problem_.threshold * static_cast<double>(before);
      } else {
        settled = changed == 0 || moved <= problem_.threshold;
      }
    }
    sums_.count(moves_);
    std::copy(sums_.sizes().begin(), sums_.sizes().end(), problem_.sizes);
    std::copy(sums_.weights().begin(), sums_.weights().end(), problem_.cluster_weights);
    std::copy(labels_.get(), labels_.get() + rows_.count, problem_.labels);
    *problem_.inertia = measure(nullptr, problem_.radii), *problem_.n_iter = n_iter, *problem_.changed = changed;
    if (problem_.known.labels != nullptr) give();
  }

 private:
  // Bit r: whether the tile has a row r.
  uint64_t rows_of(int64_t tile) const {
    return ~uint64_t{0} >> (64 - std::min(kernels_.tile_rows, rows_.count - tile * kernels_.tile_rows));
  }

  // Rows of words, those that are not yet packed; what each of them is, in their order.
  std::vector<const uint32_t*> pack(const std::vector<int64_t>& ids) {
    const Buffer<double> y(rows_.padded);
    std::vector<const uint32_t*> words;
    words.reserve(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i + kAhead < ids.size() && is_packed_[ids[i + kAhead]] == 0) rows_.prefetch(ids[i + kAhead]);
      uint32_t* place = packed_.get() + ids[i] * packing_.words;
      words.push_back(place);
      if (is_packed_[ids[i]] != 0) continue;
      bounds_.norms()[ids[i]] = static_cast<float>(packing_.row(rows_, ids[i], y.get(), place));
      is_packed_[ids[i]] = 1;
    }
    return words;
  }

  // Takes the labels that are known and that bounds prove.
  void recall() {
    const Known& known = problem_.known;
    bounds_.meet(centroids_);
    for (int64_t row = 0; row < rows_.count; ++row)
      if (known.labels[row] >= 0 && bounds_.recall(row, tiled_, packing_.scale(), known.upper[row], known.lower[row]))
        labels_[row] = static_cast<int32_t>(known.labels[row]);
    bounds_.close();
    moved_.assign(static_cast<size_t>(problem_.state.count), 0);
    bounds_.move(moved_, centroids_, threads_);
    select();
  }

  void give() {
    const Known& known = problem_.known;
    bounds_.meet(centroids_);
    for (int64_t row = 0; row < rows_.count; ++row)
      bounds_.give(row, packing_.scale(), known.upper + row, known.lower + row);
    *known.products = assignment_.products() + measured_;
  }

  // Labels the rows that are wanted; moves_ are those whose label is another.
  void assign() {
    bounds_.meet(centroids_);
    const int64_t height = kernels_.tile_rows, block = assignment_.block();
    std::vector<int64_t> before(1);  // of each tile: rows that are wanted before it
    for (int64_t tile = 0; !tiled_ && tile < n_tiles_; ++tile)
      before.push_back(before.back() + __builtin_popcountll(wanted_[tile]));
    const int64_t tasks = tiled_ ? tasks_for(n_tiles_ * height, block) : tasks_for(before.back(), block);
    std::vector<std::vector<Move>> found(static_cast<size_t>(tasks));
    parallel_for(tasks, threads_, [&](int64_t task) {
      const auto loan = assignment_.borrow();
      std::vector<int64_t> ids;
      if (tiled_) {
        (*loan).tiles.clear();
        for (int64_t tile = task * (block / height); tile < std::min(n_tiles_, (task + 1) * (block / height)); ++tile) {
          const int64_t first = tile * height;
          if (wanted_[tile] != 0)
            (*loan).tiles.push_back({packed_.get() + first * packing_.words, nullptr, first, wanted_[tile]});
        }
      } else {
        ids = wanted_rows(before, task * block, std::min(before.back(), (task + 1) * block));
        const std::vector<const uint32_t*> words = pack(ids);
        assignment_.gather(ids.data(), words.data(), static_cast<int64_t>(ids.size()), *loan);
      }
      assignment_.label(*loan);
      for (size_t t = 0; t < (*loan).tiles.size(); ++t)
        take((*loan).tiles[t], (*loan).found[t], (*loan).known[t], found[static_cast<size_t>(task)]);
    });
    moves_.clear();
    for (const auto& part : found) moves_.insert(moves_.end(), part.begin(), part.end());
  }

  // Numbers `first` to `last` of the wanted rows.
  std::vector<int64_t> wanted_rows(const std::vector<int64_t>& before, int64_t first, int64_t last) const {
    std::vector<int64_t> ids;
    ids.reserve(static_cast<size_t>(last - first));
    int64_t tile = std::upper_bound(before.begin(), before.end(), first) - before.begin() - 1;
    for (int64_t at = before[static_cast<size_t>(tile)]; at < last; ++tile)
      for (uint64_t bits = wanted_[tile]; bits != 0 && at < last; bits &= bits - 1, ++at)
        if (at >= first) ids.push_back(tile * kernels_.tile_rows + __builtin_ctzll(bits));
    return ids;
  }

  void take(const Tile& tile, const Found& found, uint64_t known, std::vector<Move>& moves) {
    if (tile.ids == nullptr) known &= rows_of(tile.first / kernels_.tile_rows);
    else known &= tile.wanted;
    if (!options_.fast && resting_ == 0) bounds_.take(tile, found, known);
    uint64_t bits = known;
    if (tile.ids == nullptr) bits &= kernels_.differing(found.label, labels_.get() + tile.first);
    for (; bits != 0; bits &= bits - 1) {
      const int r = __builtin_ctzll(bits);
      int32_t& label = labels_[tile.id(r)];
      if (joined_ && label != found.label[r]) moves.push_back({tile.id(r), label, found.label[r]});
      label = found.label[r];
    }
  }

  // New centroids from the sums; how far they moved by the state's own numbers.
  double update() {
    const State& state = problem_.state;
    std::vector<Move> borrowed;
    if (options_.empty != Empty::keep && std::find(sums_.sizes().begin(), sums_.sizes().end(), 0) != sums_.sizes().end()) {
      const Buffer<double> distances(rows_.count);
      measure(distances.get(), nullptr);
      std::copy(labels_.get(), labels_.get() + rows_.count, problem_.labels);
      borrowed = refill(options_.empty, problem_, distances.get(), sums_.sizes());
    }
    const Buffer<double> before(state.count * rows_.columns), earlier(state.count * rows_.padded);
    for (int64_t j = 0; j < state.count; ++j) {
      for (int64_t t = 0; t < rows_.columns; ++t) before[j * rows_.columns + t] = state.at(j, t);
      std::copy(centroids_.row(j), centroids_.row(j) + rows_.padded, earlier.get() + j * rows_.padded);
    }
    sums_.apply(borrowed, threads_);
    sums_.means(state, threads_);
    for (Move& move : borrowed) std::swap(move.from, move.to);
    sums_.apply(borrowed, threads_);
    centroids_.set(state, threads_);
    if (!options_.fast && resting_ == 0) {  // otherwise bounds are not used, or taken anew
      moved_.resize(static_cast<size_t>(state.count));
      centroids_.moved(earlier.get(), moved_.data());
      bounds_.move(moved_, centroids_, threads_);
    }
    return shift(kernels_, state, before.get(), rows_.columns);
  }

  // Finds the rows whose label may change.
  void select() {
    if (options_.fast) return;  // all of them since the start: bounds need certificates
    if (resting_ > 0) {
      --resting_;
      for (int64_t tile = 0; tile < n_tiles_; ++tile) wanted_[tile] = rows_of(tile);
      return;
    }
    parallel_for(tasks_for(n_tiles_, kTiles), threads_, [&](int64_t task) {
      for (int64_t tile = task * kTiles; tile < std::min(n_tiles_, (task + 1) * kTiles); ++tile) {
        const int64_t first = tile * kernels_.tile_rows;
        wanted_[tile] = bounds_.loosen(first, labels_.get() + first) & rows_of(tile);
      }
    });
    const int64_t kept = std::count(wanted_.get(), wanted_.get() + n_tiles_, uint64_t{0});
    if (tiled_ && problem_.known.labels == nullptr && kept * kFewKept < n_tiles_) resting_ = kRest;
  }

  // The integer inertia; distances [rows] and radii [clusters] where they are wanted.
  int64_t measure(double* distances, double* radii) {
    measured_ += rows_.count;
    if (radii != nullptr) std::fill(radii, radii + problem_.state.count, 0.0);
    std::atomic<int64_t> inertia{0};
    parallel_for(tasks_for(rows_.count, kBlock), threads_, [&](int64_t task) {
      const Buffer<double> y(rows_.padded);
      int64_t part = 0;
      for (int64_t row = task * kBlock; row < std::min(rows_.count, (task + 1) * kBlock); ++row) {
        const int32_t label = labels_[row];
        if (row + kAhead < rows_.count) rows_.prefetch(row + kAhead);
        const double away = kernels_.row_distance(rows_, row, centroids_.row(label), y.get());
        const double weight = problem_.weights == nullptr ? 1 : problem_.weights[row];
        part += std::llrint(away * weight * problem_.frame.inertia_scale);
        if (distances != nullptr) distances[row] = away;
        if (radii != nullptr) raise(radii + label, away);
      }
      inertia += part;
    });
    return inertia;
  }

  static void raise(double* largest, double value) {
    double seen;
    __atomic_load(largest, &seen, __ATOMIC_RELAXED);
    while (seen < value && !__atomic_compare_exchange(largest, &seen, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
  }

  const Problem problem_;
  const Options options_;
  const int threads_;
  const Rows& rows_;
  const Kernels& kernels_;
  const Packing packing_;
  Centroids centroids_;
  Assignment assignment_;
  Sums sums_;
  Bounds bounds_;
  const int64_t n_tiles_;
  const bool tiled_;          // whether packed_ is [tile][words][tile_rows], not [row][words]
  Buffer<uint32_t> packed_;
  Buffer<uint8_t> is_packed_;  // unless tiled_, of each row
  Buffer<int32_t> labels_;    // [tile][tile_rows]
  Buffer<uint64_t> wanted_;   // of each tile, bit r: whether row r is to be labelled
  int resting_ = 0;            // iterations that go without bounds, so that none are taken either
  bool joined_ = false;        // whether rows have a cluster that they may leave
  std::vector<Move> moves_;
  std::vector<float> moved_;
  int64_t measured_ = 0;      // distances of rows
};

}  // namespace

void fit(const std::vector<Problem>& problems, const Options& options, const Execution& how) {
  std::vector<int64_t> starts{0};
  for (const Problem& one : problems) starts.push_back(starts.back() + one.rows.count);
  in_one_region(how.threads, [&] {
    for_each_problem(starts, how, [&](int64_t b, const Execution& part) {
      Lloyd(problems[static_cast<size_t>(b)], options, part).run();
    });
  });
}

}  // namespace adaptinf::kmeans
