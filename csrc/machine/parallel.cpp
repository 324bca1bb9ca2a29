#include "machine/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "machine/interrupt.h"
#include "machine/shared_work.h"

namespace fastmaml {
namespace {

// How long an idle thread watches for work before it sleeps: a training loop calls again within this time, and waking
// a thread costs more than a small meta-step. It gives way to whatever else wants the processor.
constexpr auto kWatch = std::chrono::microseconds(500);
constexpr auto kWatchClosely = std::chrono::microseconds(20);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool watch(Condition condition) {
  const auto start = std::chrono::steady_clock::now();
  for (auto passed = start - start; passed < kWatch; passed = std::chrono::steady_clock::now() - start) {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      relax();
    }
    if (passed > kWatchClosely) std::this_thread::yield();
  }
  return condition();
}

// A round is one call. Helpers join it while it is open; the caller closes it when no work is left, and waits only for
// those that have joined: one that the system has not woken yet is not needed.
class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      round_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(int threads, long count, const std::function<void(int, long)>& job, const std::function<void()>* meanwhile) {
    while (static_cast<int>(threads_.size()) < threads - 1) {
      const int number = static_cast<int>(threads_.size()) + 1;
      threads_.emplace_back([this, number, seen = round_.load()] { serve(number, seen); });
    }
    SharedWork shared;
    shared_ = &shared;
    job_ = &job;
    count_ = count;
    helpers_ = threads - 1;
    next_.store(0, std::memory_order_relaxed);
    joined_.store(0, std::memory_order_release);  // opens the round
    round_.fetch_add(1);
    if (asleep_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    if (meanwhile) (*meanwhile)();
    const auto finished = [this] { return joined_.load(std::memory_order_acquire) == kClosed; };
    shared.take_part(true, [&] {
      work(0);
      joined_.fetch_or(kClosed);
      while (!watch(finished)) check_interruption();
    });
    joined_.fetch_or(kClosed);  // where that was cut short
    while (shared.failed() && !watch(finished)) {
    }
    shared.rethrow();
  }

 private:
  static constexpr int kClosed = 1 << 30;

  void work(int number) {
    for (long i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
      check_interruption();
      (*job_)(number, i);
    }
  }

  bool join() {
    int joined = joined_.load(std::memory_order_acquire);
    do {
      if (joined & kClosed) return false;
    } while (!joined_.compare_exchange_weak(joined, joined + 1, std::memory_order_acq_rel));
    return true;
  }

  void serve(int number, long seen) {
    const auto changed = [&] { return round_.load() != seen; };
    for (;;) {
      if (!watch(changed)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++asleep_;
        wake_.wait(lock, changed);
        --asleep_;
      }
      seen = round_.load();
      if (stop_) return;
      if (!join()) continue;
      if (number <= helpers_) shared_->take_part(false, [&] { work(number); });
      joined_.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<long> round_{0}, next_{0};
  std::atomic<int> joined_{kClosed}, asleep_{0};
  SharedWork* shared_ = nullptr;
  const std::function<void(int, long)>* job_ = nullptr;
  long count_ = 0;
  int helpers_ = 0;
  std::atomic<bool> stop_{false};
};

std::mutex pool_mutex;
std::unique_ptr<Pool> pool;

// A forked child has none of its parent's threads: it forgets the pool and makes its own.
void forget_in_child() {
  pool.release();
  new (&pool_mutex) std::mutex;
}

void serial(long count, const std::function<void(int, long)>& job, const std::function<void()>* meanwhile) {
  if (meanwhile) (*meanwhile)();
  SharedWork shared;
  shared.take_part(true, [&] {
    for (long i = 0; i < count; ++i) {
      check_interruption();
      job(0, i);
    }
  });
  shared.rethrow();
}

}  // namespace

void parallel_for(int threads, long count, const std::function<void(int, long)>& job,
                  const std::function<void()>* meanwhile) {
  threads = static_cast<int>(std::min<long>(threads, count));
  if (threads <= 1 || SharedWork::under_way()) return serial(count, job, meanwhile);
  std::unique_lock<std::mutex> lock(pool_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return serial(count, job, meanwhile);
  static const int registered = pthread_atfork(nullptr, nullptr, forget_in_child);
  (void)registered;
  if (!pool) pool = std::make_unique<Pool>();
  pool->run(threads, count, job, meanwhile);
}

}  // namespace fastmaml
