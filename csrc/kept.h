// One task's samples, run forward and backward once and kept, for any number of products with the loss's Hessian.
#pragma once

#include "inner_loop.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
Sweep<T> piece_of(const Task<T>& task, Index present, Index piece) {
  const Call<T>& call = task.call;
  const Index first = piece * call.shape.support, left = present - first;
  return {call.network,
          call.shape,
          left < call.shape.support ? left : call.shape.support,
          task.theta_0,
          task.theta_0_transposed,
          task.slot(piece),
          task.data(0) + first * call.shape.data,
          nullptr,
          task.patches(0)};
}

template <class T>
Targets<T> targets_of(const Task<T>& task, Index piece) {
  const Index first = piece * task.call.shape.support;
  Targets<T> targets = task.targets(0);
  targets.values += first * target_width(task.call.network.loss, task.call.network.outputs);
  targets.labels += first;
  targets.weights += first;
  return targets;
}

// The first piece writes, the others add.
template <class T>
Destination<T> piece_sum(T* sum, Index piece) {
  return piece == 0 ? Destination<T>{sum} : Destination<T>{sum, sum, nullptr, T(-1)};
}

// Keeps the samples of one task; its gradient goes to call.products unless the loss is stationary.
template <class T>
Status linearise(const Call<T>& call, T* kept, Index index) {
  Task<T> task{call, kept, index};
  if (!gather(task, 0)) return task.status;
  take_parameters(task);
  call.present[index] = task.present[0];
  T* product = call.adjoints + index * call.shape.packed;
  for (Index piece = 0; piece * call.shape.support < task.present[0]; ++piece) {
    const Sweep<T> s = piece_of(task, task.present[0], piece);
    forward(s);
    loss_and_adjoint(s, targets_of(task, piece));
    if (call.stationary) continue;
    const Destination<T> to = piece_sum(product, piece);
    backward(s, &to);
  }
  if (!call.stationary) write_product(call, index);
  return task.status;
}

// Where the loss is stationary in the outputs all adjoints are zero, and the tangents of the adjoints are what a
// backward pass makes of the outputs' (Gauss-Newton): they take the adjoints' place.
template <class T>
void stationary_product(const Sweep<T>& s, const Sweep<T>& d, const Targets<T>& targets, const Destination<T>& to) {
  tangent_forward(s, d);
  loss_tangent(s, d, targets);
  copy(d.state + s.shape.output_delta, s.n * s.shape.output_width, s.state + s.shape.output_delta);
  backward(s, &to);
}

template <class T>
void kept_product(const Call<T>& call, T* kept, T* tangents, Index index) {
  Task<T> task{call, kept, index};
  task.theta_0 = call.theta + (call.shared ? 0 : index * call.shape.packed);
  task.theta_0_transposed = call.theta_transposed + (call.shared ? 0 : index * call.shape.transposed);
  T* direction = tangents + call.tangents.direction;
  T* transposed = tangents + call.tangents.direction_transposed;
  const Index place = call.shared_vector ? 0 : index * call.network.num_parameters;
  pack(call.network, call.shape, call.vectors + place, direction);
  transpose_parameters(call.network, call.shape, direction, transposed);
  T* product = call.adjoints + index * call.shape.packed;
  for (Index piece = 0; piece * call.shape.support < call.present[index]; ++piece) {
    const Sweep<T> s = piece_of(task, call.present[index], piece);
    const Sweep<T> d{call.network, call.shape, s.n, direction, transposed, tangents + call.tangents.tangent_state,
                     nullptr};
    const Destination<T> to = piece_sum(product, piece);
    const Targets<T> targets = targets_of(task, piece);
    if (call.stationary) stationary_product(s, d, targets, to);
    else hessian_vector_product(s, d, targets, to);
  }
  write_product(call, index);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
