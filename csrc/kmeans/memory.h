// Memory on cache lines, and scratch that tasks borrow so that they need not allocate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace adaptinf::kmeans {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// `count` elements without values.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0) {
    const size_t bytes = (static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(T) + 63) / 64 * 64;
    memory_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!memory_) throw std::bad_alloc();
  }
  T* get() const { return memory_.get(); }
  T& operator[](int64_t i) const { return memory_.get()[i]; }

 private:
  std::unique_ptr<T[], Free> memory_;
};

// Lends a Scratch to each of the tasks that run at a time.
template <class Scratch>
class Pool {
 public:
  class Loan {
   public:
    Loan(Pool& pool, std::unique_ptr<Scratch> scratch) : pool_(pool), scratch_(std::move(scratch)) {}
    ~Loan() {
      const std::lock_guard<std::mutex> lock(pool_.mutex_);
      pool_.free_.push_back(std::move(scratch_));
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    Scratch& operator*() const { return *scratch_; }

   private:
    Pool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  // The arguments make a Scratch where none is free.
  template <class... Arguments>
  Loan borrow(const Arguments&... arguments) {
    std::unique_ptr<Scratch> scratch;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) scratch = std::move(free_.back()), free_.pop_back();
      else free_.reserve(free_.size() + 64);
    }
    if (!scratch) scratch = std::make_unique<Scratch>(arguments...);
    return Loan(*this, std::move(scratch));
  }

  // Calls visit for each Scratch, all of which have been given back.
  template <class Visit>
  void each(const Visit& visit) const {
    for (const auto& scratch : free_) visit(*scratch);
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace adaptinf::kmeans
