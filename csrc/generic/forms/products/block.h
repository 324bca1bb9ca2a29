// A block of tasks that take their one inner step together (loop.h): where what lies.
#pragma once

#include "generic/layers/losses.h"
#include "plain/products.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct TaskBlock {
  const OneStepCall<T>& step;
  const Call<T>& call;
  T* space;
  Index first, count;  // tasks

  Index samples(int set) const { return call.sets[set].n; }
  Targets<T> targets(int set, Index task) const {
    const Index row = task * samples(set), width = target_width(call.network.loss, call.network.outputs);
    return {space + call.space.values[set] + row * width,
            reinterpret_cast<const std::int64_t*>(space + call.space.labels[set]) + row,
            space + call.space.weights[set] + row};
  }
  // Of each task, the samples in the order that they are taken in.
  Index* order(int set) const { return reinterpret_cast<Index*>(space + call.space.order[set]); }
  // All samples of the block.
  Sweep<T> sweep(int set, Index state) const {
    return {call.network,          call.shape,    count * samples(set),        call.theta,
            call.theta_transposed, space + state, space + call.space.data[set]};
  }
  Sweep<T> support() const { return sweep(0, call.space.states); }
  Sweep<T> query() const { return sweep(1, call.space.query_state); }
  Sweep<T> tangents() const { return sweep(0, call.space.tangent_state); }
  // Packed parameters of one task, of the layers that have their own.
  T* fast(Index task) const { return space + step.fast + task * call.shape.packed; }
  T* fast_transposed(Index task) const { return space + step.fast_transposed + task * call.shape.transposed; }
  T* direction(Index task) const { return space + step.direction + task * call.shape.packed; }
  T* direction_transposed(Index task) const { return space + step.direction_transposed + task * call.shape.transposed; }
  // The products of one task's query samples and its support samples.
  T* products(Index place, Index l, Index task) const {
    return space + place + (l * call.shape.query + task * samples(1)) * step.stride;
  }
};

template <class T>
Sweep<T> part(Sweep<T> s, Index task, Index samples) {
  s.first = task * samples;
  s.n = samples;
  return s;
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
