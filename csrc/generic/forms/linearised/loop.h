// One task's samples, run forward and backward once and kept, for any number of products with the loss's Hessian.
#pragma once

#include "generic/forms/copies/loop.h"
#include "generic/forms/linearised/active.h"
#include "generic/forms/linearised/jacobian.h"
#include "machine/interrupt.h"

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
    check_interruption();
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

// A kept task as its products see it.
template <class T>
Task<T> kept_task(const Call<T>& call, T* kept, Index index) {
  Task<T> task{call, kept, index};
  task.theta_0 = call.theta + (call.shared ? 0 : index * call.shape.packed);
  task.theta_0_transposed = call.theta_transposed + (call.shared ? 0 : index * call.shape.transposed);
  return task;
}

template <class T>
Sweep<T> kept_tangent(const Call<T>& call, T* tangents, Index n) {
  return {call.network,
          call.shape,
          n,
          tangents + call.tangents.direction,
          tangents + call.tangents.direction_transposed,
          tangents + call.tangents.tangent_state,
          nullptr};
}

// A piece of a kept task in the smaller network that its samples need, and the tangents in it.
template <class T>
Sweep<T> active_sweep(const Sweep<T>& s, const ActivePiece<T>& piece, const T* theta, const T* transposed = nullptr) {
  return {piece.network, piece.shape, s.n, theta, transposed, s.state, s.data};
}

// Runs a piece anew in the smaller network, whose activations take the place of the whole one's.
template <class T>
void keep_active(const Call<T>& call, const Sweep<T>& s, const ActivePiece<T>& piece, const Targets<T>& targets,
                 T* tangents, T* jacobians) {
  T *theta = tangents + call.form.theta, *transposed = tangents + call.tangents.direction_transposed;
  take_active(call.shape, call.form, piece, 0, s.theta, theta);
  transpose_weights(piece.network, piece.shape, theta, transposed);
  const Sweep<T> small = active_sweep<T>(s, piece, theta, transposed);
  prepare_ones(piece.network, piece.shape, s.state);
  forward(small);
  loss_and_adjoint(small, targets);
  const Sweep<T> d = active_sweep<T>(kept_tangent(call, tangents, s.n), piece, theta);
  keep_jacobian(small, d, call.form, jacobians);
}

// Once, before the first product: Jacobians and cross sums of one task. Not to be cut short: it writes over what it
// is made of.
template <class T>
void keep_form(const Call<T>& call, T* kept, T* tangents, Index index) {
  const Timed timed("keep", kNoLayer, call.present[index]);
  const Task<T> task = kept_task(call, kept, index);
  const KeptForm<T>& form = call.form;
  T* own = form.kept + index * form.size;
  for (Index piece = 0; piece * call.shape.support < call.present[index]; ++piece) {
    const Sweep<T> s = piece_of(task, call.present[index], piece);
    T* jacobians = own + piece * form.piece;
    if (!form.stationary) keep_cross_sums(s, form, tangents, piece == 0, own + form.sums);
    ActivePiece<T>& active = form.active[index * form.pieces + piece];
    find_active(s, form, active);
    if (active.smaller) keep_active(call, s, active, targets_of(task, piece), tangents, jacobians);
    else keep_jacobian(s, kept_tangent(call, tangents, s.n), form, jacobians);
  }
}

// A piece's product by way of its Jacobians, in whichever network they are of.
template <class T>
void jacobian_product(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, const Targets<T>& targets,
                      T* jacobians, const Destination<T>& to) {
  clear_beyond(d, form);
  jacobian_forward(s, d, form, jacobians);
  loss_tangent(s, d, targets);
  jacobian_backward(s, d, form, jacobians, to);
}

// Adds a piece's product, found in the smaller network.
template <class T>
void active_product(const Task<T>& task, const Sweep<T>& whole, const ActivePiece<T>& piece, T* tangents,
                    const Targets<T>& targets, T* jacobians, T* product) {
  const Call<T>& call = task.call;
  const KeptForm<T>& form = call.form;
  T *theta = tangents + form.theta, *direction = tangents + form.direction, *part = tangents + form.product;
  take_active(call.shape, form, piece, form.linears - 1, task.theta_0, theta);
  take_active(call.shape, form, piece, 0, tangents + call.tangents.direction, direction);
  const Sweep<T> s = active_sweep<T>(whole, piece, theta);
  const Sweep<T> d = active_sweep<T>(kept_tangent(call, tangents, s.n), piece, direction);
  jacobian_product(s, d, form, targets, jacobians, Destination<T>{part});
  add_active(call.shape, form, piece, part, product);
}

// The first piece writes the product, the others add to it.
template <class T>
void piece_product(const Task<T>& task, T* tangents, Index piece, T* product) {
  const Call<T>& call = task.call;
  const Sweep<T> s = piece_of(task, call.present[task.index], piece);
  const Sweep<T> d = kept_tangent(call, tangents, s.n);
  const Targets<T> targets = targets_of(task, piece);
  const Destination<T> to = piece_sum(product, piece);
  if (!call.form.jacobian)
    return call.stationary ? stationary_product(s, d, targets, to) : hessian_vector_product(s, d, targets, to);
  T* jacobians = call.form.kept + task.index * call.form.size + piece * call.form.piece;
  const ActivePiece<T>& active = call.form.active[task.index * call.form.pieces + piece];
  if (active.smaller) {
    if (piece == 0) zero(product, call.shape.packed);
    return active_product(task, s, active, tangents, targets, jacobians, product);
  }
  jacobian_product(s, d, call.form, targets, jacobians, to);
}

// What a product reads of a piece, on its way into the second cache while the piece before is at work.
template <class T>
void prefetch_piece(const Task<T>& task, Index piece) {
  const Call<T>& call = task.call;
  const KeptForm<T>& form = call.form;
  if (!form.jacobian || piece * call.shape.support >= call.present[task.index]) return;
  const ActivePiece<T>& active = form.active[task.index * form.pieces + piece];
  if (!active.smaller) return;
  const Sweep<T> s = active_sweep<T>(piece_of(task, call.present[task.index], piece), active, nullptr);
  for (Index l = 1; l < form.linears; ++l) prefetch(s.input(l), s.n * s.place(l).input_width);
  T* jacobians = form.kept + task.index * form.size + piece * form.piece;
  prefetch(jacobians, jacobian_at(s, form, jacobians, form.linears - 1, 0) - jacobians);
}

template <class T>
void kept_product(const Call<T>& call, T* kept, T* tangents, Index index) {
  const Task<T> task = kept_task(call, kept, index);
  T* direction = tangents + call.tangents.direction;
  const Index place = call.shared_vector ? 0 : index * call.network.num_parameters;
  pack(call.network, call.shape, call.vectors + place, direction);
  const KeptForm<T>& form = call.form;
  if (!form.jacobian)
    transpose_parameters(call.network, call.shape, direction, tangents + call.tangents.direction_transposed);
  T* product = call.adjoints + index * call.shape.packed;
  for (Index piece = 0; piece * call.shape.support < call.present[index]; ++piece) {
    check_interruption();
    prefetch_piece(task, piece + 1);
    piece_product(task, tangents, piece, product);
  }
  if (form.jacobian && !form.stationary) {
    const Timed timed("cross terms", kNoLayer, 0);
    const T* sums = form.kept + index * form.size + form.sums;
    add_cross_product(call.network, call.shape, form, task.theta_0, direction, sums, product);
  }
  write_product(call, index);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
