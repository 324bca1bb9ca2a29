#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fastmaml {
namespace {

// How long an idle thread watches for work before it sleeps: a training loop calls again within this time.
constexpr auto kWatch = std::chrono::microseconds(100);

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool watch(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kWatch;
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

class Pool {
 public:
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      ++round_;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void run(int threads, long count, const std::function<void(int, long)>& job) {
    while (static_cast<int>(threads_.size()) < threads - 1) {
      const int number = static_cast<int>(threads_.size()) + 1;
      const long seen = round_.load();
      threads_.emplace_back([this, number, seen] { serve(number, seen); });
    }
    job_ = &job;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    helpers_ = threads - 1;
    busy_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      round_.fetch_add(1, std::memory_order_release);
    }
    if (asleep_.load() > 0) wake_.notify_all();
    work(0);
    const auto finished = [this] { return busy_.load(std::memory_order_acquire) == 0; };
    if (watch(finished)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, finished);
  }

 private:
  void work(int number) {
    for (long i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*job_)(number, i);
  }

  void serve(int number, long seen) {
    for (;;) {
      const auto changed = [&] { return round_.load(std::memory_order_acquire) != seen; };
      if (!watch(changed)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++asleep_;
        wake_.wait(lock, changed);
        --asleep_;
      }
      seen = round_.load(std::memory_order_acquire);
      if (stop_) return;
      if (number <= helpers_) work(number);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<long> round_{0}, next_{0};
  std::atomic<int> busy_{0}, asleep_{0};
  const std::function<void(int, long)>* job_ = nullptr;
  long count_ = 0;
  int helpers_ = 0;
  bool stop_ = false;
};

std::mutex pool_mutex;
std::unique_ptr<Pool> pool;

// A forked child has none of its parent's threads: it forgets the pool and makes its own.
void forget_in_child() {
  pool.release();
  new (&pool_mutex) std::mutex;
}

void serial(long count, const std::function<void(int, long)>& job) {
  for (long i = 0; i < count; ++i) job(0, i);
}

}  // namespace

void parallel_for(int threads, long count, const std::function<void(int, long)>& job) {
  threads = static_cast<int>(std::min<long>(threads, count));
  if (threads <= 1) return serial(count, job);
  std::unique_lock<std::mutex> lock(pool_mutex, std::try_to_lock);
  if (!lock.owns_lock()) return serial(count, job);
  static const int registered = pthread_atfork(nullptr, nullptr, forget_in_child);
  (void)registered;
  if (!pool) pool = std::make_unique<Pool>();
  pool->run(threads, count, job);
}

}  // namespace fastmaml
