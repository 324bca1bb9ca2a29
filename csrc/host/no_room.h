// What a verb says where its memory cannot be had.
#pragma once

#include "host/core.h"
#include "machine/size.h"

namespace fastmaml {

template <class T>
std::string no_room(const Request<T>& request, double bytes) {
  const std::string steps = std::to_string(request.steps), tasks = std::to_string(request.tasks);
  std::string samples = std::to_string(request.support.n);
  if (request.query.n > 0) samples += " support and " + std::to_string(request.query.n) + " query";
  const std::string what = tasks + " tasks of " + samples + " samples";
  const std::string takes = " need " + amount(bytes) + " of memory or more, which cannot be had";
  if (request.steps <= 1) return "tasks: " + what + takes + "; give fewer tasks or samples at a time";
  return "steps: " + steps + " inner steps of " + what + takes +
         ": of each task that is worked on, a copy of the parameters is kept for every step. Take fewer steps, or "
         "fewer tasks or samples at a time";
}

// Runs a verb; where its memory cannot be had, the error says how much that would have been, and for what.
template <class T, class Run>
auto with_room(const Request<T>& request, Run run) {
  try {
    if (request.steps > kMostElements || request.tasks > kMostElements) elements(request.steps, request.tasks);
    return run();
  } catch (const NoRoom& error) {
    throw NoRoom(error.bytes(), no_room(request, error.bytes()));
  }
}

}  // namespace fastmaml
