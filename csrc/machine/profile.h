// What each pass over each layer takes, where a benchmark asks for it. Off, it costs one branch a pass and layer.
#pragma once

#include <string>
#include <vector>

#include "plain/network.h"

namespace fastmaml {

constexpr Index kNoLayer = -1;  // of a pass over all parameters or all data

struct PassTime {
  std::string pass;
  Index layer, calls, samples;
  double seconds;  // of all threads together
};

extern bool profiling;
void set_profiling(bool on);      // while no verb runs
std::vector<PassTime> profile();  // since it was last switched on
void record(const char* pass, Index layer, Index samples, double seconds);
double profile_clock();

namespace {

// Records the time from its making to its end.
class Timed {
 public:
  Timed(const char* pass, Index layer, Index samples) : pass_(pass), layer_(layer), samples_(samples) {
    if (profiling) start_ = profile_clock();
  }
  ~Timed() {
    if (profiling) record(pass_, layer_, samples_, profile_clock() - start_);
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  const char* pass_;
  Index layer_, samples_;
  double start_ = 0;
};

}  // namespace
}  // namespace fastmaml
