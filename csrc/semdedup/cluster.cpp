#include "cluster.h"

#include <algorithm>
#include <cstring>

namespace adaptinf::semdedup {
namespace {

constexpr int64_t kBlock = 512;   // rows of a task
constexpr int64_t kSample = 256;  // rows whose mean is the center

int64_t padded(int64_t count) { return (count + kPad - 1) / kPad * kPad; }

template <typename Task>
void in_blocks(int64_t rows, int threads, const Task& task) {
  parallel_for((rows + kBlock - 1) / kBlock, threads,
               [&](int64_t block) { task(block * kBlock, std::min(rows, (block + 1) * kBlock)); });
}

}  // namespace

Cluster::Cluster(const Problem& problem, int64_t first, int64_t last, const Machine& machine, bool rounded)
    : x_(problem.x), rows_(problem.rows + first), step_(x_.shape[0] > 1 ? x_.strides[0] : 0), count_(x_.shape[1]),
      width_(padded(count_)), words_(width_ / kPad * machine.kernels.words), kernels_(machine.kernels),
      widening_(adaptinf::kernels(machine.level)), scalings_(static_cast<size_t>(last - first)),
      distinct_of_(static_cast<size_t>(last - first)) {
  std::vector<uint32_t> hashes(scalings_.size());
  std::vector<float> center;
  if (rounded) {
    center = mean();
    rounded_.reset(new uint32_t[static_cast<size_t>(size() * words_)]);
    residuals_.resize(scalings_.size());
  }
  in_blocks(size(), machine.threads, [&](int64_t from, int64_t to) {
    Scratch scratch(width_);
    for (int64_t place = from; place < to; ++place) {
      measure(place, scratch);
      unit_at(place, scratch, scratch.unit.data());
      hashes[static_cast<size_t>(place)] = kernels_.hash(scratch.unit.data(), width_);
      if (rounded)
        residuals_[static_cast<size_t>(place)] =
            kernels_.center(scratch.unit.data(), center.data(), width_, rounded_.get() + place * words_);
    }
  });
  find_copies(hashes);
  if (rounded) leave_out_copies();
}

// Sets the scaling of a place.
void Cluster::measure(int64_t place, Scratch& scratch) {
  Scaling& by = scalings_[static_cast<size_t>(place)];
  if (x_.dtype == DType::float64) {
    by = kernels_.measure_double(static_cast<const double*>(row(place)), count_);
  } else if (x_.dtype == DType::float32) {
    by = kernels_.measure(static_cast<const float*>(row(place)), count_);
  } else {
    widening_.widen(row(place), x_.dtype, 0, 1, count_, scratch.wide.data(), width_);
    by = kernels_.measure(scratch.wide.data(), count_);
  }
}

const void* Cluster::row(int64_t place) const {
  const int64_t bytes = (static_cast<int64_t>(x_.dtype) & 0xff) / 8;
  return static_cast<const char*>(x_.data) + rows_[place] * step_ * bytes;
}

void Cluster::unit_at(int64_t place, Scratch& scratch, float* out) const {
  const Scaling by = scalings_[static_cast<size_t>(place)];
  if (x_.dtype == DType::float64) {
    kernels_.unit_double(static_cast<const double*>(row(place)), count_, by, out, width_);
  } else if (x_.dtype == DType::float32) {
    kernels_.unit(static_cast<const float*>(row(place)), count_, by, out, width_);
  } else {
    widening_.widen(row(place), x_.dtype, 0, 1, count_, scratch.wide.data(), width_);
    kernels_.unit(scratch.wide.data(), count_, by, out, width_);
  }
}

// A table with open addressing of the distinct rows' hashes.
void Cluster::find_copies(const std::vector<uint32_t>& hashes) {
  size_t slots = 16;
  while (slots < 2 * hashes.size()) slots *= 2;
  std::vector<int64_t> table(slots, -1);
  Scratch mine(width_), other(width_);
  for (int64_t place = 0; place < size(); ++place) {
    const uint32_t hash = hashes[static_cast<size_t>(place)];
    bool is_made = false;
    for (size_t slot = hash & (slots - 1);; slot = (slot + 1) & (slots - 1)) {
      const int64_t found = table[slot];
      if (found < 0) {
        table[slot] = distinct_of_[static_cast<size_t>(place)] = distinct();
        place_of_.push_back(place);
        break;
      }
      if (hashes[static_cast<size_t>(this->place(found))] != hash) continue;
      if (!is_made) unit_at(place, mine, mine.unit.data());
      is_made = true;
      unit(found, other, other.unit.data());
      if (mine.unit == other.unit) {
        distinct_of_[static_cast<size_t>(place)] = found;
        break;
      }
    }
  }
}

double Cluster::similarity(const float* unit, const float* other) const {
  return std::min(1.0, kernels_.dot(unit, other, width_));
}

// Of some unit rows; sets `center_square`.
std::vector<float> Cluster::mean() {
  const auto entries = static_cast<size_t>(width_);
  std::vector<float> center(entries);
  std::vector<double> sum(entries);
  Scratch scratch(width_);
  const int64_t every = (size() + kSample - 1) / kSample;
  for (int64_t place = 0; place < size(); place += every) {
    measure(place, scratch);
    unit_at(place, scratch, scratch.unit.data());
    for (size_t t = 0; t < entries; ++t) sum[t] += static_cast<double>(scratch.unit[t]);
  }
  const auto taken = static_cast<double>((size() + every - 1) / every);
  for (size_t t = 0; t < entries; ++t) center[t] = static_cast<float>(sum[t] / taken);
  for (const float entry : center) center_square_ += static_cast<double>(entry) * static_cast<double>(entry);
  return center;
}

// Moves what is known of distinct rows from their places to their numbers.
void Cluster::leave_out_copies() {
  for (int64_t row = 0; row < distinct(); ++row) {
    if (place(row) == row) continue;
    std::memcpy(rounded_.get() + row * words_, rounded_.get() + place(row) * words_, static_cast<size_t>(words_) * 4);
    residuals_[static_cast<size_t>(row)] = residuals_[static_cast<size_t>(place(row))];
  }
}

}  // namespace adaptinf::semdedup
