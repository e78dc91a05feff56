// The ids of one side of a weight, its rows or its columns, in an XOR TensorSketch.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/tensor_view.h"

namespace adaptinf {

// int64 [R, ids] as `xorts_codes` makes them: an id's bucket, plus k where its sign is negative. Empty for other kinds.
struct Codes {
  const int64_t* data = nullptr;
  int64_t repetitions = 0, ids = 0, step = 0, k = 1;

  uint32_t bucket(int64_t repetition, int64_t id) const { return static_cast<uint32_t>(at(repetition, id) & (k - 1)); }
  bool negative(int64_t repetition, int64_t id) const { return at(repetition, id) >= k; }

 private:
  int64_t at(int64_t repetition, int64_t id) const { return data[repetition * step + id]; }
};

// Fails unless the tensor is int64 [R, ids] on the CPU with codes in [0, 2k) and R from 1 to 4, and k a power of two.
Codes checked_codes(const char* name, const Arguments& arguments, int64_t k);

// One repetition's ids, sorted by vectors of `lanes` consecutive buckets; rising within a vector.
struct BucketTable {
  struct Entry {
    uint32_t id;
    uint32_t pattern;  // lane of its bucket, plus `lanes` where the sign is negative
  };
  std::vector<uint32_t> start;  // [vectors + 1]
  std::vector<Entry> entries;   // [ids]
  int64_t most = 0;             // entries of one vector

  BucketTable(const Codes& codes, int64_t repetition, int64_t lanes);
};

}  // namespace adaptinf
