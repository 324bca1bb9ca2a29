// Python at work in the calling thread while the core's other threads begin, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <functional>
#include <utility>

namespace fastmaml {

class Meanwhile {
 public:
  // work: needs the GIL, which the core runs without. What it throws waits for `rethrow`.
  template <class Work>
  explicit Meanwhile(Work work)
      : work_([this, work = std::move(work)] {
          const auto start = std::chrono::steady_clock::now();
          pybind11::gil_scoped_acquire acquire;
          try {
            work();
          } catch (...) {
            error_ = std::current_exception();
          }
          seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }) {}
  Meanwhile(const Meanwhile&) = delete;
  Meanwhile& operator=(const Meanwhile&) = delete;

  const std::function<void()>& work() const { return work_; }
  bool failed() const { return error_ != nullptr; }
  double seconds() const { return seconds_; }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::function<void()> work_;
  std::exception_ptr error_;
  double seconds_ = 0;
};

}  // namespace fastmaml
