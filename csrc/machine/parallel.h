// A small pool of threads. Jobs are handed out one by one; which thread takes which must not matter.
#pragma once

#include <functional>

namespace fastmaml {

// Runs job(thread, index) for every index in [0, count) on at most `threads` threads, the caller's included.
// A call from a second thread while the pool is busy runs on that thread alone. `meanwhile` is what the caller does
// before it takes part, while the others begin; it throws nothing. What a job throws, or what ends a long call early
// (interrupt.h), keeps the jobs that are left from running and is thrown again once all threads have stopped.
void parallel_for(int threads, long count, const std::function<void(int, long)>& job,
                  const std::function<void()>* meanwhile = nullptr);

}  // namespace fastmaml
