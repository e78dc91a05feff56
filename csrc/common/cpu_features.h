// The instruction sets that this processor (and its operating system) offers.
#pragma once

namespace adaptinf {

enum class CpuLevel { portable, avx2, avx512 };

inline CpuLevel cpu_level() {
#if defined(__x86_64__)
  static const CpuLevel level = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return CpuLevel::avx512;
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return avx2 ? CpuLevel::avx2 : CpuLevel::portable;
  }();
  return level;
#else
  return CpuLevel::portable;
#endif
}

// bfloat16 dot products, which some processors of level avx512 have.
inline bool has_avx512_bf16() {
#if defined(__x86_64__)
  static const bool has = cpu_level() == CpuLevel::avx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

inline const char* cpu_level_name(CpuLevel level) {
  return level == CpuLevel::avx512 ? "avx512" : level == CpuLevel::avx2 ? "avx2" : "portable";
}

}  // namespace adaptinf
