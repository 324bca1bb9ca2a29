// The four passes over a whole network.
#pragma once

#include "activation.h"
#include "append.h"
#include "batch_norm.h"
#include "image_passes.h"
#include "linear.h"
#include "losses.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
void forward(const Sweep<T>& s) {
  for (Index l = 0; l < s.depth(); ++l) {
    if (s.layer(l).image) {
      image_forward(s, l);
      continue;
    }
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
  }
}

// Adjoints from the last layer down; with a destination also every parameter's gradient.
template <class T>
void backward(const Sweep<T>& s, const Destination<T>* to) {
  for (Index l = s.depth() - 1; l >= 0; --l) {
    const Kind kind = s.layer(l).kind;
    if (s.layer(l).image) {
      if (kind == Kind::batch_norm) image_norm_sums(s, l);
      if (to) image_gradient(s, l, *to);
      if (l > 0) image_backward(s, l);
      continue;
    }
    if (to && kind == Kind::linear) linear_gradient(s, l, *to);
    if (to && kind == Kind::batch_norm) batch_norm_gradient(s, l, *to);
    if (to && kind == Kind::append) append_gradient(s, s, l, *to);
    if (l == 0) return;
    switch (kind) {
      case Kind::linear:
        linear_backward(s, l);
        break;
      case Kind::batch_norm:
        batch_norm_backward(s, l);
        break;
      case Kind::append:
        append_backward(s, s, l);
        break;
      default:
        activation_backward(s, l);
    }
  }
}

template <class T>
void gradients(const Sweep<T>& s, const Destination<T>& to) {
  for (Index l = 0; l < s.depth(); ++l) {
    if (s.layer(l).image) {
      image_gradient(s, l, to);
      continue;
    }
    if (s.layer(l).kind == Kind::linear) linear_gradient(s, l, to);
    if (s.layer(l).kind == Kind::batch_norm) batch_norm_gradient(s, l, to);
    if (s.layer(l).kind == Kind::append) append_gradient(s, s, l, to);
  }
}

template <class T>
void tangent_forward(const Sweep<T>& s, const Sweep<T>& d) {
  for (Index l = 0; l < s.depth(); ++l) {
    if (s.layer(l).image) {
      image_tangent_forward(s, d, l);
      continue;
    }
    switch (s.layer(l).kind) {
      case Kind::linear:
        linear_tangent_forward(s, d, l);
        break;
      case Kind::batch_norm:
        batch_norm_tangent_forward(s, d, l);
        break;
      case Kind::append:
        append_tangent_forward(s, d, l);
        break;
      default:
        activation_tangent_forward(s, d, l);
    }
  }
}

template <class T>
void tangent_backward(const Sweep<T>& s, const Sweep<T>& d, const Destination<T>& to) {
  for (Index l = s.depth() - 1; l >= 0; --l) {
    const Kind kind = s.layer(l).kind;
    if (s.layer(l).image) {
      if (kind == Kind::batch_norm) image_norm_tangent_sums(s, d, l);
      image_tangent_gradient(s, d, l, to);
      if (l > 0) image_tangent_backward(s, d, l);
      continue;
    }
    if (kind == Kind::linear) linear_tangent_gradient(s, d, l, to);
    if (kind == Kind::batch_norm) batch_norm_tangent_gradient(s, d, l, to);
    if (kind == Kind::append) append_gradient(s, d, l, to);
    if (l == 0) return;
    switch (kind) {
      case Kind::linear:
        linear_tangent_backward(s, d, l);
        break;
      case Kind::batch_norm:
        batch_norm_tangent_backward(s, d, l);
        break;
      case Kind::append:
        append_backward(s, d, l);
        break;
      default:
        activation_tangent_backward(s, d, l);
    }
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
