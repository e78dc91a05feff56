#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/always_inline.h"
#include "kernels.h"

namespace adaptinf::semdedup {

namespace portable {
#define ADAPTINF_VECTOR_BYTES 16
#include "kernels_body.h"
}  // namespace portable

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define ADAPTINF_VECTOR_BYTES 32
#include "kernels_body.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")
namespace avx512 {
#define ADAPTINF_VECTOR_BYTES 64
#include "kernels_body.h"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c,prefer-vector-width=512")
namespace avx512_bf16 {
#define ADAPTINF_VECTOR_BYTES 64
#define ADAPTINF_BRAIN
#include "kernels_body.h"
}  // namespace avx512_bf16
#pragma GCC pop_options

#endif

const Kernels& kernels(CpuLevel level, bool brain) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return brain ? avx512_bf16::brain_table() : avx512::table();
  if (level == CpuLevel::avx2) return avx2::table();
#endif
  (void)level;
  (void)brain;
  return portable::table();
}

}  // namespace adaptinf::semdedup
