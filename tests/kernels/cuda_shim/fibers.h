// Runs CUDA kernels on one CPU thread: a fiber for every thread of a block, blocks one after the other, both in an order
// drawn from a seed. A fiber runs until it waits, so a schedule shows only some races; built with -fsanitize=thread, in
// which every fiber is a thread of its own and only barriers order them, every race of a run is reported.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#if !defined(__x86_64__)
#error "the fibers switch stacks in x86-64 assembly"
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#define SHIM_UNSEEN __attribute__((no_sanitize("thread"), noinline))  // the scheduler is no part of the program
#else
#define SHIM_UNSEEN
#endif

// Saves the callee's registers and the stack pointer in *save, and goes on where `load` was saved.
extern "C" void cuda_shim_switch(void** save, void* load);
__asm__(
    ".text\n.weak cuda_shim_switch\n.type cuda_shim_switch, @function\ncuda_shim_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

namespace cuda_shim {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxSites = 256;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kSharedBytes = 163 << 10;  // what a block may have on sm_80
constexpr int kWords = 8;                   // that a lane shows to its warp at once

// A place of the source where threads wait for each other or for their copies.
struct Site {
  const char* kind = nullptr;
  const char* file = nullptr;
  int line = 0;
};

// A copy that was issued and may happen at any time until it is waited for.
struct Copy {
  void* to;
  const void* from;
  int group;
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* fake_stack = nullptr;   // AddressSanitizer's
  void* tsan = nullptr;         // ThreadSanitizer's
  Index thread;
  int number = 0;
  bool finished = false;
  const char* waits_for = nullptr;
  uint32_t shown[2][kWords] = {};  // by the parity of the warp's exchange
  int exchanges = 0;
  int groups = 0;  // of copies that were committed
  std::vector<Copy> copies;
};

// Threads that wait for each other: a block at __syncthreads, a warp at anything that has lanes in step.
struct Meeting {
  int arrived = 0;
  int site = -1;
  Fiber* waiting[kMaxThreads];
  int64_t sum[2] = {};  // what __syncthreads_count and its like add up, by the parity of the phase
  int phase = 0;
};

struct Shim {
  uint64_t seed = 1;
  int left_out = -1;  // a site where nobody waits: what a removed barrier does
  Site sites[kMaxSites];
  int n_sites = 0;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  void* scheduler_tsan = nullptr;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  std::vector<Fiber> fibers;
  Fiber* ready[kMaxThreads];
  int n_ready = 0;
  int threads = 0;
  Meeting block;
  Meeting warps[kMaxThreads / kWarp];
  void (*body)(void*) = nullptr;
  void* closure = nullptr;
  char started = 0, ended = 0;  // addresses by which ThreadSanitizer learns that launches and blocks are in order
};

inline Shim shim;
inline Index threadIdx, blockIdx, blockDim, gridDim;  // of the fiber that runs

[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "cuda_shim: %s\n", what);
  std::fflush(stderr);
  std::_Exit(3);
}

SHIM_UNSEEN inline uint32_t draw(uint32_t below) {
  shim.seed = shim.seed * 6364136223846793005u + 1442695040888963407u;
  return static_cast<uint32_t>((shim.seed >> 33) % below);
}

// The number of this site; -1 where nobody is to wait.
SHIM_UNSEEN inline int site(const char* kind, const char* file, int line) {
  int found = 0;
  while (found < shim.n_sites && (shim.sites[found].line != line || std::strcmp(shim.sites[found].file, file) != 0)) ++found;
  if (found == shim.n_sites) {
    if (found == kMaxSites) die("too many places where threads wait");
    shim.sites[found].kind = kind;
    shim.sites[found].file = file;
    shim.sites[found].line = line;
    ++shim.n_sites;
  }
  return found == shim.left_out ? -1 : found;
}

SHIM_UNSEEN inline void make_ready(Fiber* fiber) { shim.ready[shim.n_ready++] = fiber; }

// From a fiber to the scheduler, until the scheduler comes back to it.
SHIM_UNSEEN inline void leave(bool for_good) {
  Fiber* fiber = shim.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber->fake_stack, shim.scheduler_stack, shim.scheduler_stack_bytes);
#else
  (void)for_good;
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(shim.scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  cuda_shim_switch(&fiber->stack_pointer, shim.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr);
#endif
}

SHIM_UNSEEN inline void wait_at(const char* what) {
  shim.current->waits_for = what;
  leave(false);
}

inline void release_to(void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(address);
#else
  (void)address;
#endif
}

inline void acquire_from(void* address) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(address);
#else
  (void)address;
#endif
}

// Waits until `count` fibers have come; false where it went through because it was the last.
SHIM_UNSEEN inline void arrive(Meeting& meeting, int count, int site, const char* what) {
  if (meeting.arrived > 0 && meeting.site != site) die("threads wait at different barriers");
  meeting.site = site;
  meeting.waiting[meeting.arrived++] = shim.current;
  if (meeting.arrived < count) return wait_at(what);
  for (int i = 0; i + 1 < count; ++i) make_ready(meeting.waiting[i]);
  meeting.arrived = 0;
  ++meeting.phase;
}

// A barrier that also orders memory.
inline void meet(Meeting& meeting, int count, int site, const char* what) {
  release_to(&meeting);
  arrive(meeting, count, site, what);
  acquire_from(&meeting);
}

SHIM_UNSEEN inline int lane() { return shim.current->number % kWarp; }
SHIM_UNSEEN inline Meeting& warp() { return shim.warps[shim.current->number / kWarp]; }

// Shows words to the warp and waits until all lanes have; orders no memory. peer(lane) reads them until the next exchange.
SHIM_UNSEEN inline void exchange(const uint32_t* words, int count, int site, const char* what) {
  Fiber* fiber = shim.current;
  ++fiber->exchanges;
  for (int i = 0; i < count; ++i) fiber->shown[fiber->exchanges & 1][i] = words[i];
  arrive(warp(), kWarp, site, what);
}

SHIM_UNSEEN inline const uint32_t* peer(int lane) {
  const Fiber* fiber = shim.current;
  return shim.fibers[static_cast<size_t>(fiber->number / kWarp * kWarp + lane)].shown[fiber->exchanges & 1];
}

SHIM_UNSEEN inline void finish() {
  shim.current->finished = true;
  leave(true);
}

inline void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &shim.scheduler_stack, &shim.scheduler_stack_bytes);
#endif
  acquire_from(&shim.started);
  shim.body(shim.closure);
  release_to(&shim.ended);
  finish();
}

SHIM_UNSEEN inline void enter(Fiber* fiber) {
  shim.current = fiber;
  threadIdx = fiber->thread;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&shim.scheduler_fake_stack, fiber->stack, kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber->tsan, __tsan_switch_to_fiber_no_sync);
#endif
  cuda_shim_switch(&shim.scheduler, fiber->stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(shim.scheduler_fake_stack, nullptr, nullptr);
#endif
}

inline void prepare(Fiber& fiber, int number) {
  if (fiber.stack == nullptr) {
    fiber.stack = static_cast<char*>(std::aligned_alloc(4096, kStackBytes));
#if defined(__SANITIZE_THREAD__)
    fiber.tsan = __tsan_create_fiber(0);
#endif
  }
  const unsigned n = static_cast<unsigned>(number);
  fiber.number = number;
  fiber.thread.x = n % blockDim.x;
  fiber.thread.y = n / blockDim.x % blockDim.y;
  fiber.thread.z = n / blockDim.x / blockDim.y;
  fiber.finished = false;
  fiber.waits_for = nullptr;
  fiber.copies.clear();
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, kStackBytes);  // frames that were left for good
#endif
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 2;
  top[0] = reinterpret_cast<void*>(&fiber_main);  // returned to with the stack aligned as after a call
  top[1] = nullptr;
  std::memset(top - 6, 0, 6 * sizeof(void*));
  fiber.stack_pointer = top - 6;
}

inline void run_block() {
  shim.n_ready = 0;
  shim.block = Meeting();
  for (Meeting& warp : shim.warps) warp = Meeting();
  for (int i = 0; i < shim.threads; ++i) {
    prepare(shim.fibers[static_cast<size_t>(i)], i);
    make_ready(&shim.fibers[static_cast<size_t>(i)]);
  }
  release_to(&shim.started);
  while (shim.n_ready > 0) {
    Fiber*& chosen = shim.ready[draw(static_cast<uint32_t>(shim.n_ready))];
    Fiber* fiber = chosen;
    chosen = shim.ready[--shim.n_ready];
    enter(fiber);
  }
  acquire_from(&shim.ended);
  int stuck = 0;
  for (int i = 0; i < shim.threads; ++i) {
    const Fiber& fiber = shim.fibers[static_cast<size_t>(i)];
    if (fiber.finished && !fiber.copies.empty()) die("a thread ended before its copies were waited for");
    if (!fiber.finished && stuck++ < 4)
      std::fprintf(stderr, "cuda_shim: thread %d of block %u waits for %s\n", i, blockIdx.x, fiber.waits_for);
  }
  if (stuck > 0) die("deadlock");
}

// Every block of a launch; `start` prepares the shared memory of one.
template <class Start>
void run_grid(Index grid, Index block, void (*body)(void*), void* closure, const Start& start) {
  shim.threads = static_cast<int>(block.x * block.y * block.z);
  if (shim.threads == 0 || shim.threads > kMaxThreads || shim.threads % kWarp != 0) die("a block of no whole warps");
  if (static_cast<int>(shim.fibers.size()) < shim.threads) {
    shim.fibers.reserve(kMaxThreads);
    shim.fibers.resize(static_cast<size_t>(shim.threads));
  }
#if defined(__SANITIZE_THREAD__)
  shim.scheduler_tsan = __tsan_get_current_fiber();
#endif
  gridDim = grid;
  blockDim = block;
  shim.body = body;
  shim.closure = closure;
  std::vector<uint64_t> order;
  for (uint64_t i = 0; i < uint64_t{grid.x} * grid.y * grid.z; ++i) {
    order.push_back(i);
    std::swap(order[i], order[draw(static_cast<uint32_t>(i + 1))]);
  }
  for (const uint64_t number : order) {
    blockIdx.x = static_cast<unsigned>(number % grid.x);
    blockIdx.y = static_cast<unsigned>(number / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(number / grid.x / grid.y);
    start();
    run_block();
  }
}

}  // namespace cuda_shim
