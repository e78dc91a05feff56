#include "parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
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

// Threads that stay together for many loops of one of them, the leader.
class Team {
 public:
  // By the leader: returns once all tasks are done, though some threads may not have come.
  void run(Loop& loop, unsigned threads) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      loop_ = &loop, seats_ = threads - 1, ++loops_;
    }
    called_.notify_all();
    loop.run();
    std::unique_lock<std::mutex> lock(mutex_);
    loop_ = nullptr;
    wait(lock, left_, [this] { return busy_ == 0; });
  }

  // By the leader: nothing more will come.
  void close() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    called_.notify_all();
  }

  // By all others, until it is closed.
  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (int64_t seen = 0;; seen = loops_) {
      wait(lock, called_, [&] { return closed_ || loops_ != seen; });
      if (closed_) return;
      if (loop_ == nullptr || seats_ == 0) continue;
      Loop& loop = *loop_;
      --seats_, ++busy_;
      lock.unlock();
      loop.run();
      lock.lock();
      if (--busy_ == 0) left_.notify_one();
    }
  }

 private:
  // A little while awake, as most waits are short, and then asleep: who is awaited may need this processor.
  template <class Condition>
  void wait(std::unique_lock<std::mutex>& lock, std::condition_variable& until, const Condition& condition) {
    constexpr int kTries = 100, kPauses = 32;
    for (int i = 0; i < kTries && !condition(); ++i) {
      lock.unlock();
      for (int j = 0; j < kPauses; ++j) pause();
      lock.lock();
    }
    until.wait(lock, condition);
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  std::mutex mutex_;
  std::condition_variable called_, left_;
  Loop* loop_ = nullptr;  // that is running
  unsigned seats_ = 0;    // how many more may help with it
  int64_t loops_ = 0;     // so far
  int busy_ = 0;          // how many help
  bool closed_ = false;
};

thread_local Team* led = nullptr;  // by this thread, unless it is in a task of its loops

// libgomp's entry for `#pragma omp parallel`. torch loads its own copy of that library for all to see; a second copy would
// keep a second pool of threads, and the two would spin against each other.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

GompParallel gomp_parallel() {
  static const auto function = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return function;
}

// Calls work, which does not throw, on up to so many threads, this one among them.
void on_threads(unsigned count, std::function<void()> work) {
  if (const GompParallel parallel = gomp_parallel()) {
    parallel([](void* data) { (*static_cast<std::function<void()>*>(data))(); }, &work, count, 0);
    return;
  }
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < count; ++i) helpers.emplace_back(std::cref(work));
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace

void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task) {
  const auto count = static_cast<unsigned>(std::max<int64_t>(1, std::min<int64_t>(threads, tasks)));
  Loop loop(tasks, task);
  if (count == 1) {
    loop.run();
  } else if (Team* const team = std::exchange(led, nullptr)) {
    team->run(loop, count);
    led = team;
  } else {
    on_threads(count, [&loop] { loop.run(); });
  }
  loop.rethrow();
}

void in_one_region(int threads, const std::function<void()>& body) {
  if (threads <= 1 || led != nullptr) return body();
  Team team;
  std::exception_ptr error;
  const auto leader = std::this_thread::get_id();
  const auto work = [&] {
    if (std::this_thread::get_id() != leader) return team.help();
    led = &team;
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
    led = nullptr;
    team.close();
  };
  on_threads(static_cast<unsigned>(threads), work);
  if (error) std::rethrow_exception(error);
}

}  // namespace adaptinf
