// Tanh, and a ReLU that no other layer could take in, for a group of tasks; generic/layers/activation.h has the same
// for one.
#pragma once

#include "generic/forms/lanes/sweep.h"
#include "generic/layers/activation.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
inline Wide<T> lane_slope(const Layer& layer, Wide<T> y) {
  return layer.kind == Kind::tanh ? splat<Wide<T>>(T(1)) - y * y : splat<Wide<T>>(T(1));
}

// What goes back through a ReLU before this layer.
template <class T>
inline Wide<T> lane_open(const LaneSweep<T>& s, Index l, Index at, Wide<T> value) {
  return s.layer(l).input_relu ? gate(value, lanes_at(s.input(l), at)) : value;
}

template <class T>
void lane_activation_forward(const LaneSweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  for (Index i = 0; i < s.n * layer.out; ++i) {
    Wide<T> value = lanes_at(s.input(l), i);
    if (layer.kind == Kind::tanh) value = each_lane<T>(value, hyperbolic_tangent<T>);
    put_lanes(s.output(l), i, layer.relu ? relu(value) : value);
  }
}

template <class T>
void lane_activation_backward(const LaneSweep<T>& s, Index l) {
  for (Index i = 0; i < s.n * s.layer(l).out; ++i) {
    const Wide<T> y = lanes_at(s.output(l), i), dy = lanes_at(s.output_delta(l), i);
    put_lanes(s.delta(l), i, lane_open(s, l, i, dy * lane_slope<T>(s.layer(l), y)));
  }
}

template <class T>
void lane_activation_tangent_forward(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  for (Index i = 0; i < s.n * layer.out; ++i) {
    const Wide<T> y = lanes_at(s.output(l), i);
    const Wide<T> dx = l == 0 ? Wide<T>{} : lanes_at(d.input(l), i);
    const Wide<T> dy = dx * lane_slope<T>(layer, y);
    put_lanes(d.output(l), i, layer.relu ? gate(dy, y) : dy);
  }
}

template <class T>
void lane_activation_tangent_backward(const LaneSweep<T>& s, const LaneSweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  for (Index i = 0; i < s.n * layer.out; ++i) {
    const Wide<T> y = lanes_at(s.output(l), i);
    Wide<T> value = lanes_at(d.output_delta(l), i) * lane_slope<T>(layer, y);
    if (layer.kind == Kind::tanh)
      value -= splat<Wide<T>>(T(2)) * y * lanes_at(d.output(l), i) * lanes_at(s.output_delta(l), i);
    put_lanes(d.delta(l), i, lane_open(s, l, i, value));
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
