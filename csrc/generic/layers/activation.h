// Tanh, and a ReLU that no other layer could take in (it stands first, or follows a tanh).
#pragma once

#include "generic/layers/sweep.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
T hyperbolic_tangent(T value) {
  if constexpr (sizeof(T) == 4) return __builtin_tanhf(value);
  else return __builtin_tanh(value);
}

template <class T>
void activation_forward(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const T* x = s.input(l);
  T* y = s.output(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < layer.out; ++c) {
      T value = x[r * s.place(l).input_width + c];
      if (layer.kind == Kind::tanh) value = hyperbolic_tangent(value);
      y[r * s.place(l).output_width + c] = layer.relu && value < T(0) ? T(0) : value;
    }
}

// d tanh = 1 - y^2; a fused ReLU has gated the adjoint already, so y = tanh(x) wherever it is not zero.
template <class T>
inline T slope(const Layer& layer, T y) {
  return layer.kind == Kind::tanh ? T(1) - y * y : T(1);
}

template <class T>
void activation_backward(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < layer.out; ++c) {
      const T y = s.output(l)[r * p.output_width + c];
      const bool open = !layer.input_relu || s.input(l)[r * p.input_width + c] > T(0);
      const T dy = s.output_delta(l)[r * p.output_width + c];
      s.delta(l)[r * p.input_width + c] = open ? dy * slope(layer, y) : T(0);
    }
}

template <class T>
void activation_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < layer.out; ++c) {
      const T y = s.output(l)[r * p.output_width + c];
      const T dx = l == 0 ? T(0) : d.input(l)[r * p.input_width + c];
      d.output(l)[r * p.output_width + c] = layer.relu && !(y > T(0)) ? T(0) : dx * slope(layer, y);
    }
}

template <class T>
void activation_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < layer.out; ++c) {
      const Index at = r * p.output_width + c;
      const T y = s.output(l)[at];
      const bool open = !layer.input_relu || s.input(l)[r * p.input_width + c] > T(0);
      T value = d.output_delta(l)[at] * slope(layer, y);
      if (layer.kind == Kind::tanh) value -= T(2) * y * d.output(l)[at] * s.output_delta(l)[at];
      d.delta(l)[r * p.input_width + c] = open ? value : T(0);
    }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
