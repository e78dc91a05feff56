#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../grad_sketch/kernels.h"
#include "kernels.h"

#define ADAPTINF_ALWAYS inline __attribute__((always_inline))

namespace adaptinf::kmeans {

namespace portable {
constexpr CpuLevel kLevel = CpuLevel::portable;
#define ADAPTINF_VECTOR_BYTES 16
#define ADAPTINF_BRAIN 0
#include "kernels_table.h"
}  // namespace portable

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
constexpr CpuLevel kLevel = CpuLevel::avx2;
#define ADAPTINF_VECTOR_BYTES 32
#define ADAPTINF_BRAIN 0
#include "kernels_table.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC's own header: bug 105593
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")
namespace avx512 {
constexpr CpuLevel kLevel = CpuLevel::avx512;
#define ADAPTINF_VECTOR_BYTES 64
#define ADAPTINF_BRAIN 0
#include "kernels_table.h"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c,prefer-vector-width=512")
namespace avx512_bf16 {
constexpr CpuLevel kLevel = CpuLevel::avx512;
#define ADAPTINF_VECTOR_BYTES 64
#define ADAPTINF_BRAIN 1
#include "kernels_table.h"
}  // namespace avx512_bf16
#pragma GCC pop_options
#pragma GCC diagnostic pop

#endif

const Kernels& kernels(CpuLevel level, bool brain) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return brain ? avx512_bf16::table() : avx512::table();
  if (level == CpuLevel::avx2) return avx2::table();
#endif
  (void)level, (void)brain;
  return portable::table();
}

}  // namespace adaptinf::kmeans
