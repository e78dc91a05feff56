// Work shared by threads: those of the OpenMP runtime that torch has loaded, so that its pool and ours are one.
#pragma once

#include <cstdint>
#include <functional>

namespace adaptinf {

// Calls task(0) ... task(tasks - 1), each once, on up to `threads` threads, in no particular order. An exception of a task
// ends the loop and is thrown here. Results must not depend on which thread takes which task.
void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task);

// Calls body(), for all of whose loops the threads are gathered once. Such a loop ends with its last task; one of its own
// ends only when every thread has come, which takes long where other processes keep the processors busy.
void in_one_region(int threads, const std::function<void()>& body);

}  // namespace adaptinf
