#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <utility>

#include "../common/parallel.h"
#include "../common/vector_math.h"

namespace adaptinf::attention {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Buffers of one task, each at a border of 64 bytes.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : left_(rounded(floats) + kSlack) {
    memory_.reset(static_cast<float*>(std::aligned_alloc(kBorder * sizeof(float), left_ * sizeof(float))));
    if (!memory_) throw std::bad_alloc();
    next_ = memory_.get();
  }
  float* take(int64_t floats) {
    float* const taken = next_;
    next_ += rounded(floats);
    return taken;
  }

 private:
  static constexpr size_t kBorder = 16, kSlack = 16 * kBorder;  // what rounding up sixteen buffers may take
  static size_t rounded(int64_t floats) { return (static_cast<size_t>(floats) + kBorder - 1) / kBorder * kBorder; }
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  size_t left_;
  std::unique_ptr<float, Free> memory_;
  float* next_;
};

namespace portable {
constexpr int kLanes = 4;
#include "attention_body.h"
}  // namespace portable

#if defined(__x86_64__)

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int kLanes = 8;
#include "attention_body.h"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
namespace avx512 {
constexpr int kLanes = 16;
#include "attention_body.h"
}  // namespace avx512
#pragma GCC pop_options

#endif

}  // namespace

void forward(const Problem& problem, const Heads& out, float* log_sums, int threads, CpuLevel level) {
  auto* one = portable::forward_head;
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) one = avx512::forward_head;
  if (level == CpuLevel::avx2) one = avx2::forward_head;
#endif
  (void)level;
  parallel_for(problem.batch * problem.key_heads, threads, [&](int64_t task) {
    one(problem, out, log_sums, task / problem.key_heads, task % problem.key_heads);
  });
}

void backward(const Problem& problem, const float* log_sums, const Heads& out_gradient, const Gradients& gradients, int threads,
              CpuLevel level) {
  auto* one = portable::backward_head;
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) one = avx512::backward_head;
  if (level == CpuLevel::avx2) one = avx2::backward_head;
#endif
  (void)level;
  parallel_for(problem.batch * problem.key_heads, threads, [&](int64_t task) {
    one(problem, log_sums, out_gradient, gradients, task / problem.key_heads, task % problem.key_heads);
  });
}

}  // namespace adaptinf::attention
