// From places to distinct rows, rounded for the screen: unit rows, equal ones by a table of hashes, their numbers in order,
// and what is left of them less their cluster's mean.
#pragma once

#include "dedup_state.cuh"

namespace adaptinf::semdedup::cuda {

constexpr int kSample = 256;  // rows whose mean is the center

// 2^-e, 2^(e-1) <= value < 2^e with e from -1000 to 1022; 1 for 0.
__device__ __forceinline__ double limited_power(double value) {
  if (value == 0) return 1;
  const long long biased = __double_as_longlong(value) >> 52;  // 0 for what is below 2^-1022
  const long long exponent = min(max(biased - 1022, -1000ll), 1022ll);
  return __longlong_as_double((1023 - exponent) << 52);
}

__device__ __forceinline__ Count mixed(float value, int64_t t) {
  Count bits = static_cast<uint32_t>(__float_as_int(value)) + static_cast<Count>(t + 1) * 0x9e3779b97f4a7c15u;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

// Scaling and hash of every place; and everything that later phases add to is cleared.
__device__ void measure(const State& s, const Cluster& c, const Team& team) {
  for_octets(team, c.places, [&](int64_t index, bool valid) {
    const int64_t place = c.first + index, row = s.rows[place];
    const void* data = row_at(s, place);
    double largest = 0;
    for (int64_t t = lane_of_octet(); t < s.columns; t += kOctet) largest = fmax(largest, fabs(value_at(data, s.dtype, t)));
    Scaling by{limited_power(largest_of_octet(largest)), 1};
    double squares = 0;
    for (int64_t t = lane_of_octet(); t < s.columns; t += kOctet) {
      const double scaled = static_cast<float>(multiply(value_at(data, s.dtype, t), by.scale));
      squares = add(squares, multiply(scaled, scaled));
    }
    squares = join_octet(squares);
    by.inverse = squares == 0 ? 0 : 1 / sqrt(squares);
    const UnitRow unit{data, s.dtype, by};
    Count hash = 0;
    for (int64_t t = lane_of_octet(); t < s.columns; t += kOctet) hash += mixed(unit(t), t);
    for (int bits = 4; bits > 0; bits /= 2) hash += __shfl_xor_sync(kFullWarp, hash, bits);
    if (!valid || lane_of_octet() != 0) return;
    if (row < 0 || row >= s.x_rows) atomicMax(s.work.bad, 1);
    s.work.scalings[place] = by;
    s.work.hashes[place] = hash;
    s.work.slots[2 * place] = s.work.slots[2 * place + 1] = -1;
    s.work.original[place] = c.places;
  });
  if (team.thread() == 0) s.work.extents[c.number] = {0, 0, 0};
}

// By a warp.
__device__ __forceinline__ bool equal(const State& s, const UnitRow& a, const UnitRow& b) {
  bool differs = false;
  for (int64_t t = lane_of_warp(); t < s.columns; t += kLanes) differs = differs || a(t) != b(t);
  return __ballot_sync(kFullWarp, differs) == 0;
}

// Every place finds one that is equal, by a warp each; which one, the race decides, but not which is the first of them.
__device__ void find_copies(const State& s, const Cluster& c, const Team& team) {
  const int64_t slots = int64_t{2} * c.places;
  int* table = s.work.slots + 2 * c.first;
  const Count* hashes = s.work.hashes + c.first;
  for (int64_t index = team.warp(); index < c.places; index += team.warps()) {
    const int place = static_cast<int>(index);
    const Count hash = hashes[place];
    int64_t slot = static_cast<int64_t>(hash % static_cast<Count>(slots));
    int kind = place;
    for (;; slot = slot + 1 < slots ? slot + 1 : 0) {
      int found = 0;
      if (lane_of_warp() == 0) found = atomicCAS(table + slot, -1, place);
      found = __shfl_sync(kFullWarp, found, 0);
      if (found < 0) break;
      if (hashes[found] != hash || !equal(s, unit_at(s, c, place), unit_at(s, c, found))) continue;
      kind = found;
      break;
    }
    if (lane_of_warp() != 0) continue;
    s.work.kind[c.first + place] = kind;
    atomicMin(s.work.original + c.first + kind, place);
  }
}

// By one block: distinct rows get their numbers in the order of their first places.
__device__ void number_rows(const State& s, const Cluster& c, unsigned char* shared) {
  int* of_warps = reinterpret_cast<int*>(shared);
  const int warp = static_cast<int>(threadIdx.x) / kLanes, lane = lane_of_warp();
  int count = 0;
  for (int start = 0; start < c.places; start += kThreads) {
    const int place = start + static_cast<int>(threadIdx.x);
    const bool is_first = place < c.places && s.work.original[c.first + s.work.kind[c.first + place]] == place;
    const unsigned firsts = __ballot_sync(kFullWarp, is_first);
    if (lane == 0) of_warps[warp] = __popc(firsts);
    __syncthreads();
    int number = count + __popc(firsts & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      number += w < warp ? of_warps[w] : 0;
      count += of_warps[w];
    }
    __syncthreads();  // the counts are read
    if (!is_first) continue;
    s.work.number_of[c.first + place] = number;
    s.work.place_of[c.first + number] = place;
  }
  if (threadIdx.x == 0) s.work.distinct[c.number] = count;
}

// The mean of a sample of the distinct rows, by columns.
__device__ void find_center(const State& s, const Cluster& c, const Team& team) {
  const int distinct = distinct_of(s, c), every = max(1, (distinct + kSample - 1) / kSample);
  const double taken = (distinct + every - 1) / every;
  for (int64_t t = team.thread(); t < s.columns; t += team.threads()) {
    double sum = 0;
    for (int row = 0; row < distinct; row += every) sum += unit_of(s, c, row)(t);
    s.work.centers[c.number * s.columns + t] = static_cast<float>(sum / taken);
  }
}

__device__ void round_rows(const State& s, const Cluster& c, const Team& team) {
  const float* center = s.work.centers + c.number * s.columns;
  for_octets(team, distinct_of(s, c), [&](int64_t index, bool valid) {
    const UnitRow unit = unit_of(s, c, static_cast<int>(index));
    uint16_t* out = s.work.rounded + (c.first + index) * s.padded;
    double squares = 0, lost = 0, along = 0, center_square = 0;
    for (int64_t t = lane_of_octet(); t < s.padded; t += kOctet) {
      const double middle = t < s.columns ? center[t] : 0, y = t < s.columns ? unit(t) - middle : 0;
      const uint16_t bits = brain_bits(static_cast<float>(y));
      const double rest = y - of_brain_bits(bits);
      squares += y * y;
      lost += rest * rest;
      along += middle * y;
      center_square += middle * middle;
      if (valid) out[t] = bits;
    }
    const double slack = 1 + 1e-9;  // of these sums
    const double length = sqrt(join_octet(squares)) * slack, rounding = sqrt(join_octet(lost)) * slack;
    along = join_octet(along);
    center_square = join_octet(center_square);
    if (!valid || lane_of_octet() != 0) return;
    s.work.residuals[c.first + index] = {length, rounding, along + center_square};
    s.work.bias[c.first + index] = static_cast<float>(-along);
    Extent* extent = s.work.extents + c.number;
    raise(&extent->length, length);
    raise(&extent->rounding, rounding);
    raise(&extent->along, fabs(along));
  });
}

}  // namespace adaptinf::semdedup::cuda
