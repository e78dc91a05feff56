#include "codes.h"

#include <algorithm>
#include <limits>
#include <string>

namespace adaptinf {

Codes checked_codes(const char* name, const Arguments& arguments, int64_t k) {
  const TensorView view = checked_view(name, arguments, {DType::int64}, 2, Access::read);
  const std::string who(name);
  if (view.device != DeviceType::cpu) fail(who + ": must be in the memory of the CPU");
  if (k < 1 || k > std::numeric_limits<int32_t>::max() || (k & (k - 1)) != 0)
    fail("sketch: k of xorts must be a power of two under 2^31");
  const int64_t repetitions = view.shape[0], ids = view.shape[1];
  if (repetitions < 1 || repetitions > 4) fail(who + ": must have from 1 to 4 repetitions");
  if (ids > std::numeric_limits<uint32_t>::max()) fail(who + ": has 2^32 ids or more");
  const Codes codes{static_cast<const int64_t*>(view.data), repetitions, ids, repetitions > 1 ? view.strides[0] : 0, k};
  for (int64_t repetition = 0; repetition < repetitions; ++repetition) {
    const int64_t* const row = codes.data + repetition * codes.step;
    if (!std::all_of(row, row + ids, [k](int64_t code) { return 0 <= code && code < 2 * k; }))
      fail(who + ": a code is not in [0, 2k)");
  }
  return codes;
}

BucketTable::BucketTable(const Codes& codes, int64_t repetition, int64_t lanes) {
  const auto vectors = static_cast<size_t>(std::max<int64_t>(1, codes.k / lanes));
  start.assign(vectors + 1, 0);
  entries.resize(static_cast<size_t>(codes.ids));
  for (int64_t id = 0; id < codes.ids; ++id) ++start[codes.bucket(repetition, id) / lanes + 1];
  most = *std::max_element(start.begin(), start.end());
  for (size_t vector = 0; vector < vectors; ++vector) start[vector + 1] += start[vector];
  std::vector<uint32_t> next(start.begin(), start.end() - 1);
  for (int64_t id = 0; id < codes.ids; ++id) {
    const uint32_t bucket = codes.bucket(repetition, id), width = static_cast<uint32_t>(lanes);
    const uint32_t pattern = bucket % width + (codes.negative(repetition, id) ? width : 0);
    entries[next[bucket / width]++] = {static_cast<uint32_t>(id), pattern};
  }
}

}  // namespace adaptinf
