// The four passes over a whole network, for a group of tasks.
#pragma once

#include "generic/forms/lanes/activation.h"
#include "generic/forms/lanes/linear.h"
#include "generic/forms/lanes/losses.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
bool is_linear(const LaneSweep<T>& s, Index l) {
  return s.layer(l).kind == Kind::linear;
}

template <class T>
void lane_forward(const LaneSweep<T>& s) {
  for (Index l = 0; l < s.depth(); ++l) {
    const Timed timed("forward", l, s.n);
    if (is_linear(s, l)) lane_linear_forward(s, l);
    else lane_activation_forward(s, l);
  }
}

template <class T>
void lane_layer_backward(const LaneSweep<T>& s, Index l) {
  const Timed timed("backward", l, s.n);
  if (is_linear(s, l)) lane_linear_backward(s, l);
  else lane_activation_backward(s, l);
}

// Adjoints from the last layer down; with a destination also every parameter's gradient, for which a layer's own
// parameters are no longer needed when it is written: it may take their place.
template <class T>
void lane_backward(const LaneSweep<T>& s, const Destination<T>* to) {
  for (Index l = s.depth() - 1; l >= 0; --l) {
    if (l > 0) lane_layer_backward(s, l);
    const Timed timed("gradient", l, s.n);
    if (to && is_linear(s, l)) lane_linear_gradient(s, l, *to);
  }
}

template <class T>
void lane_layer_tangent_forward(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l) {
  const Timed timed("tangent forward", l, s.n);
  if (is_linear(s, l)) lane_linear_tangent_forward(s, d, l);
  else lane_activation_tangent_forward(s, d, l);
}

template <class T>
void lane_layer_tangent_backward(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l) {
  const Timed timed("tangent backward", l, s.n);
  if (is_linear(s, l)) lane_linear_tangent_backward(s, d, l);
  else lane_activation_tangent_backward(s, d, l);
}

// H v at the sweep's parameters, whose forward and backward passes have been made. It may take the direction's place.
template <class T>
void lane_hessian_vector_product(const LaneSweep<T>& s, const LaneSweep<T>& d, const LaneTargets<T>& targets,
                                 const Destination<T>& to) {
  for (Index l = 0; l < s.depth(); ++l) lane_layer_tangent_forward(s, d, l);
  lane_loss_tangent(s, d, targets);
  for (Index l = s.depth() - 1; l >= 0; --l) {
    if (l > 0) lane_layer_tangent_backward(s, d, l);
    const Timed timed("tangent gradient", l, s.n);
    if (is_linear(s, l)) lane_linear_tangent_gradient(s, d, l, to);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
