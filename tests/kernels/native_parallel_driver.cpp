// Loops of common/parallel.h, on their own and in regions, for the sanitizers to watch. Prints how many tasks were done.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/parallel.h"

using adaptinf::in_one_region;
using adaptinf::parallel_for;

namespace {

std::atomic<int64_t> done{0};

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

// Every task once and on one of so many threads; their plain writes are seen once the loop is over.
void count_tasks(int64_t tasks, int threads) {
  std::vector<int> times(static_cast<size_t>(tasks));
  std::set<std::thread::id> who;
  std::mutex mutex;
  parallel_for(tasks, threads, [&](int64_t i) {
    ++times[static_cast<size_t>(i)];
    const std::lock_guard<std::mutex> lock(mutex);
    who.insert(std::this_thread::get_id());
  });
  for (const int count : times) require(count == 1, "a task was not done once");
  require(static_cast<int>(who.size()) <= threads, "more threads than were asked for");
  done += tasks;
}

void many_loops(int threads) {
  for (int round = 0; round < 40; ++round)
    for (const int64_t tasks : {0, 1, 2, 3, 7, 100})
      for (const int some : {1, 2, threads}) count_tasks(tasks, some);
}

void loops_in_tasks(int threads) {
  std::atomic<int64_t> sum{0};
  parallel_for(20, threads, [&](int64_t i) { parallel_for(i, threads, [&](int64_t j) { sum += i * j; }); });
  int64_t expected = 0;
  for (int64_t i = 0; i < 20; ++i) expected += i * (i * (i - 1) / 2);
  require(sum == expected, "a loop in a task");
  done += 20;
}

template <class Call>
void must_throw(const char* text, const Call& call) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    return require(error.what() == std::string(text), "another exception");
  }
  require(false, "no exception");
}

void errors(int threads) {
  must_throw("a task", [&] {
    parallel_for(50, threads, [](int64_t i) {
      if (i % 7 == 3) throw std::runtime_error("a task");
    });
  });
}

// Two tasks that wait for each other end only on two threads; a loop in one of them does not wait for the other.
void together() {
  std::atomic<int> here{0};
  std::atomic<bool> over{false};
  const auto caller = std::this_thread::get_id();
  parallel_for(2, 2, [&](int64_t) {
    ++here;
    while (here < 2) std::this_thread::yield();
    if (std::this_thread::get_id() == caller) {
      parallel_for(2, 2, [](int64_t) {});
      over = true;
    }
    while (!over) std::this_thread::yield();
  });
  done += 2;
}

void everything(int threads) {
  many_loops(threads), loops_in_tasks(threads), errors(threads), together(), many_loops(threads);
}

}  // namespace

int main() {
  for (const int threads : {2, 3, 5}) {
    everything(threads);
    in_one_region(threads, [&] { everything(threads); });
    in_one_region(threads, [&] { in_one_region(threads, [&] { everything(threads); }); });
    must_throw("a body", [&] { in_one_region(threads, [] { throw std::runtime_error("a body"); }); });
    for (int i = 0; i < 200; ++i) in_one_region(threads, [&] { if (i % 2 == 0) count_tasks(3, threads); });
    // regions beside each other
    std::thread other([&] { in_one_region(threads, [&] { many_loops(threads); }); });
    in_one_region(threads, [&] { many_loops(threads); });
    other.join();
  }
  std::printf("%lld\n", static_cast<long long>(done));
}
