#include "machine/profile.h"

#include <chrono>
#include <map>
#include <mutex>
#include <utility>

namespace fastmaml {
namespace {

std::mutex mutex;
std::map<std::pair<std::string, Index>, PassTime> totals;

}  // namespace

bool profiling = false;

void set_profiling(bool on) {
  std::lock_guard<std::mutex> lock(mutex);
  if (on) totals.clear();
  profiling = on;
}

std::vector<PassTime> profile() {
  std::lock_guard<std::mutex> lock(mutex);
  std::vector<PassTime> times;
  for (const auto& entry : totals) times.push_back(entry.second);
  return times;
}

void record(const char* pass, Index layer, Index samples, double seconds) {
  std::lock_guard<std::mutex> lock(mutex);
  PassTime& total = totals.try_emplace({pass, layer}, PassTime{pass, layer, 0, 0, 0}).first->second;
  ++total.calls;
  total.samples += samples;
  total.seconds += seconds;
}

double profile_clock() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace fastmaml
