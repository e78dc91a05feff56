#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../common/widen.h"
#include "kernels.h"

namespace adaptinf {

namespace portable {
#define ADAPTINF_VECTOR_BYTES 16
#include "kernels_table.h"
}  // namespace portable

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
#define ADAPTINF_VECTOR_BYTES 32
#include "kernels_table.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC's own header: bug 105593
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prefer-vector-width=512")
namespace avx512 {
#define ADAPTINF_VECTOR_BYTES 64
#include "kernels_table.h"
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC diagnostic pop

#endif

const Kernels& kernels(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return avx512::table();
  if (level == CpuLevel::avx2) return avx2::table();
#endif
  (void)level;
  return portable::table();
}

}  // namespace adaptinf
