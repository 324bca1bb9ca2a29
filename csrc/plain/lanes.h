// A call whose SIMD lanes are tasks: a group of tasks takes every step together, and each number of the network stands
// in memory once for each of them, side by side. Nothing is padded and nothing transposed, however narrow a layer is.
#pragma once

#include "plain/copies.h"

namespace fastmaml {

// Places in a state, in numbers: a layer's input [n, in] and its adjoint.
struct LanePlace {
  Index input = 0, delta = 0;
};

// Places in one thread's workspace, in numbers.
struct LaneSpace {
  Index thetas = 0;  // theta_0 ... theta_K, each [P]; the last becomes lambda
  Index direction = 0;
  Index states = 0, slots = 1;  // of the last `slots` steps
  Index other_state = 0;        // of the query set, then of the tangents
  Index data[2] = {0, 0}, targets[2] = {0, 0}, weights[2] = {0, 0};
  Index size = 0;
};

template <class T>
struct LaneCall {
  Network network;
  const LanePlace* places = nullptr;
  LaneSpace space;
  Index state = 0, output = 0, output_delta = 0, probabilities = 0;  // a state's length, and places in it
  Index tasks = 0, steps = 0;
  Samples<T> sets[2];  // support, query
  bool second_order = true;
  const T* task_scales = nullptr;  // [tasks], or null
  const T* parameters = nullptr;   // [P]
  const T* inner_lr = nullptr;     // [P]; null where all have one_inner_lr
  T one_inner_lr = T(0);

  T* sums = nullptr;          // of lambda_0 over a group's tasks [groups, P]
  T* query_losses = nullptr;  // [tasks]
  T* outputs = nullptr;       // [tasks, M, outputs], or null
};

}  // namespace fastmaml
