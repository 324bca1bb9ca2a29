#include "machine/interrupt.h"

#include <chrono>

#include "machine/shared_work.h"

namespace fastmaml {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBetweenQuestions = std::chrono::milliseconds(80);
constexpr auto kShort = std::chrono::milliseconds(1);

std::atomic<void (*)()> question{nullptr};

// Thrown in a thread whose part another one's error has ended.
struct Ended {};

// One thread's part in some work.
class Part {
 public:
  Part(const SharedWork& work, bool asks);
  ~Part();
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  void check() {
    if (work_.failed()) throw Ended();
    if (asks_ && --left_ == 0) look_at_clock();
  }

 private:
  // Reading the clock takes as long as some steps of a small network: what is checked often reads it seldom.
  void look_at_clock() {
    const auto now = Clock::now();
    every_ = now - looked_ < kShort ? 2 * every_ : 1;
    left_ = every_;
    looked_ = now;
    if (now - asked_ < kBetweenQuestions) return;
    asked_ = now;
    if (void (*const ask)() = question.load()) ask();
  }

  const SharedWork& work_;
  const bool asks_;
  Part* const before_;
  long every_ = 1, left_ = 1;
  Clock::time_point looked_, asked_;
};

thread_local Part* current = nullptr;

Part::Part(const SharedWork& work, bool asks) : work_(work), asks_(asks), before_(current) {
  if (asks) looked_ = asked_ = Clock::now();
  current = this;
}

Part::~Part() { current = before_; }

}  // namespace

void set_interruption(void (*ask)()) { question = ask; }

void check_interruption() {
  if (current) current->check();
}

void SharedWork::take_part(bool asks, const std::function<void()>& part) {
  try {
    const Part mine(*this, asks);
    part();
  } catch (...) {
    if (!failed_.exchange(true)) error_ = std::current_exception();
  }
}

bool SharedWork::under_way() { return current != nullptr; }

}  // namespace fastmaml
