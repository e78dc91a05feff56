#include <algorithm>
#include <array>
#include <cstring>

#include "../common/always_inline.h"
#include "philox_fill.h"

namespace adaptinf {
namespace {

constexpr int kLanes = 16;       // counters side by side
constexpr int64_t kSigns = 128;  // signs in one counter's four words

// One function body, compiled once per instruction set; all give the same bits.

ADAPTINF_ALWAYS void philox_from(uint64_t first, uint32_t word2, uint32_t word3, PhiloxKey key, uint32_t (&c0)[kLanes],
                                 uint32_t (&c1)[kLanes], uint32_t (&c2)[kLanes], uint32_t (&c3)[kLanes]) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint64_t counter = first + static_cast<uint64_t>(lane);
    c0[lane] = static_cast<uint32_t>(counter);
    c1[lane] = static_cast<uint32_t>(counter >> 32);
    c2[lane] = word2;
    c3[lane] = word3;
  }
  philox4x32_10<kLanes>(c0, c1, c2, c3, key);
}

ADAPTINF_ALWAYS void words_body(const Words& words, const TensorView& out) {
  const int64_t stride = out.shape[0] > 1 ? out.strides[0] : 0;
  auto* target = static_cast<int64_t*>(out.data);
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int64_t first = 0; first < out.shape[0]; first += kLanes) {
    philox_from(words.start + static_cast<uint64_t>(first), words.word2, words.word3, words.key, c0, c1, c2, c3);
    const int64_t count = std::min<int64_t>(kLanes, out.shape[0] - first);
    for (int64_t lane = 0; lane < count; ++lane) {
      int64_t* row = target + (first + lane) * stride;
      row[0] = c0[lane];
      row[1] = c1[lane];
      row[2] = c2[lane];
      row[3] = c3[lane];
    }
  }
}

using Eight = std::array<int8_t, 8>;

constexpr std::array<Eight, 256> make_sign_table() {
  std::array<Eight, 256> table{};
  for (int byte = 0; byte < 256; ++byte)
    for (int bit = 0; bit < 8; ++bit) table[byte][bit] = (byte >> bit) & 1 ? -1 : 1;
  return table;
}

constexpr std::array<Eight, 256> kSignTable = make_sign_table();

ADAPTINF_ALWAYS void expand(const uint32_t (&words)[4], int8_t* target) {
  for (int word = 0; word < 4; ++word)
    for (int byte = 0; byte < 4; ++byte)
      std::memcpy(target + 32 * word + 8 * byte, kSignTable[(words[word] >> (8 * byte)) & 0xff].data(), 8);
}

ADAPTINF_ALWAYS void signs_body(const Signs& signs, const TensorView& out) {
  const int64_t rows = out.shape[0], columns = out.shape[1], stride = rows > 1 ? out.strides[0] : 0;
  const uint64_t first_block = signs.column / kSigns;
  const int64_t skip = static_cast<int64_t>(signs.column % kSigns);
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
  for (int64_t row = 0; row < rows; ++row) {
    int8_t* target = static_cast<int8_t*>(out.data) + row * stride;
    for (int64_t group = 0; group * kSigns - skip < columns; group += kLanes) {
      philox_from(first_block + static_cast<uint64_t>(group), static_cast<uint32_t>(signs.row + static_cast<uint64_t>(row)),
                  signs.domain, signs.key, c0, c1, c2, c3);
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t at = (group + lane) * kSigns - skip;  // column of `out`; the first and last counter may be cut
        const uint32_t words[4] = {c0[lane], c1[lane], c2[lane], c3[lane]};
        if (at >= 0 && at + kSigns <= columns) {
          expand(words, target + at);
        } else if (at < columns) {
          int8_t whole[kSigns];
          expand(words, whole);
          const int64_t from = std::max<int64_t>(0, -at), to = std::min<int64_t>(kSigns, columns - at);
          std::memcpy(target + at + from, whole + from, static_cast<size_t>(to - from));
        }
      }
    }
  }
}

#if defined(__x86_64__)

#define ADAPTINF_AVX2 __attribute__((target("avx2")))
#define ADAPTINF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

ADAPTINF_AVX2 void words_avx2(const Words& words, const TensorView& out) { words_body(words, out); }
ADAPTINF_AVX512 void words_avx512(const Words& words, const TensorView& out) { words_body(words, out); }
ADAPTINF_AVX2 void signs_avx2(const Signs& signs, const TensorView& out) { signs_body(signs, out); }
ADAPTINF_AVX512 void signs_avx512(const Signs& signs, const TensorView& out) { signs_body(signs, out); }

#endif

}  // namespace

void fill_words_cpu(const Words& words, const TensorView& out, CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return words_avx512(words, out);
  if (level == CpuLevel::avx2) return words_avx2(words, out);
#endif
  (void)level;
  words_body(words, out);
}

void fill_signs_cpu(const Signs& signs, const TensorView& out, CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return signs_avx512(signs, out);
  if (level == CpuLevel::avx2) return signs_avx2(signs, out);
#endif
  (void)level;
  signs_body(signs, out);
}

}  // namespace adaptinf
