// Work shared by threads: those of the OpenMP runtime that torch has loaded, so that its pool and ours are one.
#pragma once

#include <cstdint>
#include <functional>

namespace adaptinf {

// Calls task(0) ... task(tasks - 1), each once, on up to `threads` threads, in no particular order. An exception of a task
// ends the loop and is thrown here. Results must not depend on which thread takes which task.
void parallel_for(int64_t tasks, int threads, const std::function<void(int64_t)>& task);

}  // namespace adaptinf
