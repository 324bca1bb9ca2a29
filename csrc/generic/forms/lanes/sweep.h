// One network on one sample set of a group of tasks: where each layer's numbers lie. A Destination's `by` holds one
// scalar for each parameter, the same for all tasks.
#pragma once

#include "generic/layers/sweep.h"
#include "generic/tiles/matmul_lanes.h"
#include "plain/lanes.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct LaneSweep {
  const LaneCall<T>& call;
  Index n;
  const T* theta;  // [P], in torch's order
  T* state;
  T* data;  // the first layer's input [n, in]

  Index depth() const { return call.network.depth; }
  const Layer& layer(Index l) const { return call.network.layers[l]; }
  T* in_state(Index number) const { return state + number * kLanes<T>; }
  const T* parameter(Index number) const { return theta + number * kLanes<T>; }
  T* input(Index l) const { return l == 0 ? data : in_state(call.places[l].input); }
  T* delta(Index l) const { return in_state(call.places[l].delta); }
  T* output(Index l) const { return l + 1 < depth() ? input(l + 1) : in_state(call.output); }
  T* output_delta(Index l) const { return l + 1 < depth() ? delta(l + 1) : in_state(call.output_delta); }
};

template <class T, class Function>
inline Wide<T> each_lane(Wide<T> value, Function function) {
  for (int lane = 0; lane < kLanes<T>; ++lane) value[lane] = function(static_cast<T>(value[lane]));
  return value;
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
