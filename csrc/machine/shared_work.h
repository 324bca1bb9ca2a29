// The work of one parallel_for as its threads see it: what one of them throws ends the others' part too.
#pragma once

#include <atomic>
#include <exception>
#include <functional>

namespace fastmaml {

class SharedWork {
 public:
  // Runs one thread's part. asks: in the thread that began the call, which asks whether to go on.
  void take_part(bool asks, const std::function<void()>& part);
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  // What was thrown first; to be called once all threads have done their parts.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }
  // Whether this thread has a part in some work: what it asks may begin a call of its own.
  static bool under_way();

 private:
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace fastmaml
