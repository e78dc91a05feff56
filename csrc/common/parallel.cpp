#include "parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace adaptinf {
namespace {

class Loop {
 public:
  Loop(int64_t tasks, const std::function<void(int64_t)>& task) : tasks_(tasks), task_(task) {}

  void run() noexcept {
    try {
      for (int64_t i = next_++; i < tasks_; i = next_++) task_(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_ = tasks_;
    }
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const int64_t tasks_;
  const std::function<void(int64_t)>& task_;
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr error_;
};

// libgomp's entry for `#pragma omp parallel`. torch loads its own copy of that library for all to see; a second copy would
// keep a second pool of threads, and the two would spin against each other.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

GompParallel gomp_parallel() {
  static const auto function = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return function;
}

}  // namespace

void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task) {
  const auto count = static_cast<unsigned>(std::max<int64_t>(1, std::min<int64_t>(threads, tasks)));
  Loop loop(tasks, task);
  if (count == 1) {
    loop.run();
  } else if (const GompParallel parallel = gomp_parallel()) {
    parallel([](void* data) { static_cast<Loop*>(data)->run(); }, &loop, count, 0);
  } else {
    std::vector<std::thread> helpers;
    for (unsigned i = 1; i < count; ++i) helpers.emplace_back([&loop] { loop.run(); });
    loop.run();
    for (std::thread& helper : helpers) helper.join();
  }
  loop.rethrow();
}

}  // namespace adaptinf
