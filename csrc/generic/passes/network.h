// The four passes over a whole network.
#pragma once

#include "generic/layers/activation.h"
#include "generic/layers/append.h"
#include "generic/layers/batch_norm.h"
#include "generic/layers/linear.h"
#include "generic/layers/losses.h"
#include "generic/passes/images.h"
#include "machine/profile.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// A stem is made as a whole where its convolution stands; no adjoint goes back through it.
template <class T>
bool made_before(const Sweep<T>& s, Index l) {
  return l == 1 && s.layer(l).stem;
}

template <class T>
void layer_forward(const Sweep<T>& s, Index l) {
  if (made_before(s, l)) return;
  const Timed timed("forward", l, s.n);
  if (s.layer(l).image) return image_forward(s, l);
  switch (s.layer(l).kind) {
    case Kind::linear:
      linear_forward(s, l);
      break;
    case Kind::batch_norm:
      batch_norm_forward(s, l);
      break;
    case Kind::append:
      append_forward(s, l);
      break;
    default:
      activation_forward(s, l);
  }
  write_ones(s, l + 1, false);
  note_open(s, l + 1);
}

template <class T>
void layer_backward(const Sweep<T>& s, Index l) {
  if (made_before(s, l)) return;
  const Timed timed("backward", l, s.n);
  if (s.layer(l).image) return image_backward(s, l);
  switch (s.layer(l).kind) {
    case Kind::linear:
      return linear_backward(s, l);
    case Kind::batch_norm:
      return batch_norm_backward(s, l);
    case Kind::append:
      return append_backward(s, s, l);
    default:
      return activation_backward(s, l);
  }
}

template <class T>
void layer_gradient(const Sweep<T>& s, Index l, const Destination<T>& to) {
  const Timed timed("gradient", l, s.n);
  if (s.layer(l).image) return image_gradient(s, l, to);
  if (s.layer(l).kind == Kind::linear) linear_gradient(s, l, to);
  if (s.layer(l).kind == Kind::batch_norm) batch_norm_gradient(s, l, to);
  if (s.layer(l).kind == Kind::append) append_gradient(s, s, l, to);
}

template <class T>
void layer_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  if (made_before(s, l)) return;
  const Timed timed("tangent forward", l, s.n);
  if (s.layer(l).image) return image_tangent_forward(s, d, l);
  switch (s.layer(l).kind) {
    case Kind::linear:
      return linear_tangent_forward(s, d, l);
    case Kind::batch_norm:
      return batch_norm_tangent_forward(s, d, l);
    case Kind::append:
      return append_tangent_forward(s, d, l);
    default:
      return activation_tangent_forward(s, d, l);
  }
}

template <class T>
void layer_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  if (made_before(s, l)) return;
  const Timed timed("tangent backward", l, s.n);
  if (s.layer(l).image) return image_tangent_backward(s, d, l);
  switch (s.layer(l).kind) {
    case Kind::linear:
      return linear_tangent_backward(s, d, l);
    case Kind::batch_norm:
      return batch_norm_tangent_backward(s, d, l);
    case Kind::append:
      return append_backward(s, d, l);
    default:
      return activation_tangent_backward(s, d, l);
  }
}

template <class T>
void layer_tangent_gradient(const Sweep<T>& s, const Sweep<T>& d, Index l, const Destination<T>& to) {
  const Timed timed("tangent gradient", l, s.n);
  if (s.layer(l).image) return image_tangent_gradient(s, d, l, to);
  if (s.layer(l).kind == Kind::linear) linear_tangent_gradient(s, d, l, to);
  if (s.layer(l).kind == Kind::batch_norm) batch_norm_tangent_gradient(s, d, l, to);
  if (s.layer(l).kind == Kind::append) append_gradient(s, d, l, to);
}

template <class T>
bool has_sums(const Sweep<T>& s, Index l) {
  return s.layer(l).image && s.layer(l).kind == Kind::batch_norm;
}

template <class T>
void forward(const Sweep<T>& s) {
  for (Index l = 0; l < s.depth(); ++l) layer_forward(s, l);
}

// Adjoints from the last layer down; with a destination also every parameter's gradient.
template <class T>
void backward(const Sweep<T>& s, const Destination<T>* to) {
  for (Index l = s.depth() - 1; l >= 0; --l) {
    if (has_sums(s, l)) image_norm_sums(s, l);
    if (to) layer_gradient(s, l, *to);
    if (l > 0) layer_backward(s, l);
  }
}

template <class T>
void gradients(const Sweep<T>& s, const Destination<T>& to) {
  for (Index l = 0; l < s.depth(); ++l) layer_gradient(s, l, to);
}

template <class T>
void tangent_forward(const Sweep<T>& s, const Sweep<T>& d) {
  for (Index l = 0; l < s.depth(); ++l) layer_tangent_forward(s, d, l);
}

// Where the direction itself is written over, a layer's part of it is read before.
template <class T>
void tangent_backward(const Sweep<T>& s, const Sweep<T>& d, const Destination<T>& to) {
  const bool over = to.out == d.theta;
  for (Index l = s.depth() - 1; l >= 0; --l) {
    if (has_sums(s, l)) image_norm_tangent_sums(s, d, l);
    if (!over) layer_tangent_gradient(s, d, l, to);
    if (l > 0) layer_tangent_backward(s, d, l);
    if (over) layer_tangent_gradient(s, d, l, to);
  }
}

// H v at the sweep's parameters, whose forward and backward passes have been made.
template <class T>
void hessian_vector_product(const Sweep<T>& s, const Sweep<T>& d, const Targets<T>& targets, const Destination<T>& to) {
  tangent_forward(s, d);
  loss_tangent(s, d, targets);
  tangent_backward(s, d, to);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
