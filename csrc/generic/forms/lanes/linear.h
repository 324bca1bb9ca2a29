// Linear layers of a group of tasks; generic/layers/linear.h has the same for one task. Weights [out, in] and biases as
// torch has them.
#pragma once

#include "generic/forms/lanes/sweep.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// What a layer's outputs are made of: x W^T
template <class T>
LaneTerm<T> forward_term(const Layer& layer, const T* x, const T* weight) {
  return {x, layer.in, 1, weight, 1, layer.in, layer.in};
}

// y-bar W
template <class T>
LaneTerm<T> backward_term(const Layer& layer, const T* adjoint, const T* weight) {
  return {adjoint, layer.out, 1, weight, layer.in, 1, layer.out};
}

// y-bar^T x
template <class T>
LaneTerm<T> gradient_term(const Layer& layer, Index n, const T* adjoint, const T* x) {
  return {adjoint, 1, layer.out, x, layer.in, 1, n};
}

template <class T>
void lane_linear_forward(const LaneSweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  Output<T> out{s.output(l), layer.out};
  out.finish = layer.relu ? Finish::relu : Finish::store;
  if (layer.bias >= 0) out.base = s.parameter(layer.bias);
  const LaneTerm<T> term = forward_term(layer, s.input(l), s.parameter(layer.weight));
  lane_matmul(s.n, layer.out, &term, 1, out);
}

// The adjoint of the input, gated by the ReLU that produced it.
template <class T>
Output<T> lane_backward_output(const LaneSweep<T>& s, T* to, Index l) {
  Output<T> out{to, s.layer(l).in};
  if (s.layer(l).input_relu) {
    out.finish = Finish::gate;
    out.by = s.input(l);
    out.by_row = s.layer(l).in;
  }
  return out;
}

template <class T>
void lane_linear_backward(const LaneSweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const LaneTerm<T> term = backward_term(layer, s.output_delta(l), s.parameter(layer.weight));
  lane_matmul(s.n, layer.in, &term, 1, lane_backward_output(s, s.delta(l), l));
}

// out = base - step * gradient, or gradient, of the one number at `at`
template <class T>
inline void lane_update(const Destination<T>& to, Index at, Wide<T> gradient) {
  gradient *= splat<Wide<T>>(to.by ? to.by[at] : to.scale);
  put_lanes(to.out, at, to.base ? lanes_at(to.base, at) - gradient : gradient);
}

template <class T>
void lane_bias_gradient(const Layer& layer, Index n, const T* adjoint, const Destination<T>& to) {
  for (Index o = 0; o < layer.out && layer.bias >= 0; ++o) {
    Wide<T> sum = lanes_at(adjoint, o);
    for (Index r = 1; r < n; ++r) sum += lanes_at(adjoint, r * layer.out + o);
    lane_update(to, layer.bias + o, sum);
  }
}

template <class T>
void lane_weight_gradient(const Layer& layer, const LaneTerm<T>* terms, int num_terms, const Destination<T>& to) {
  Output<T> out{to.out + layer.weight * kLanes<T>, layer.in};
  if (to.base) {
    out.finish = to.by ? Finish::weighted_update : Finish::scaled_update;
    out.scale = to.scale;
    out.base = to.base + layer.weight * kLanes<T>;
    out.base_row = layer.in;
    out.by = to.by ? to.by + layer.weight : nullptr;
    out.by_row = layer.in;
  }
  lane_matmul(layer.out, layer.in, terms, num_terms, out);
}

template <class T>
void lane_linear_gradient(const LaneSweep<T>& s, Index l, const Destination<T>& to) {
  const LaneTerm<T> term = gradient_term(s.layer(l), s.n, s.output_delta(l), s.input(l));
  lane_weight_gradient(s.layer(l), &term, 1, to);
  lane_bias_gradient(s.layer(l), s.n, s.output_delta(l), to);
}

// ---- tangents: `d` is the sweep in the direction (its theta is the direction, its state the tangents) ----

template <class T>
void lane_linear_tangent_forward(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  Output<T> out{d.output(l), layer.out};
  if (layer.relu) {
    out.finish = Finish::gate;
    out.by = s.output(l);
    out.by_row = layer.out;
  }
  if (layer.bias >= 0) out.base = d.parameter(layer.bias);
  const LaneTerm<T> terms[] = {forward_term(layer, s.input(l), d.parameter(layer.weight)),
                               forward_term<T>(layer, d.input(l), s.parameter(layer.weight))};
  lane_matmul(s.n, layer.out, terms, l == 0 ? 1 : 2, out);  // the data's tangent is zero
}

template <class T>
void lane_linear_tangent_backward(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const LaneTerm<T> terms[] = {backward_term(layer, s.output_delta(l), d.parameter(layer.weight)),
                               backward_term(layer, d.output_delta(l), s.parameter(layer.weight))};
  lane_matmul(s.n, layer.in, terms, 2, lane_backward_output(s, d.delta(l), l));
}

template <class T>
void lane_linear_tangent_gradient(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l, const Destination<T>& to) {
  const Layer& layer = s.layer(l);
  const LaneTerm<T> terms[] = {gradient_term(layer, s.n, d.output_delta(l), s.input(l)),
                               gradient_term<T>(layer, s.n, s.output_delta(l), d.input(l))};
  lane_weight_gradient(layer, terms, l == 0 ? 1 : 2, to);
  lane_bias_gradient(layer, s.n, d.output_delta(l), to);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
