// Parameters beside the outputs, the same for every sample: y = [x, p]. A policy's state-independent log-std.
#pragma once

#include "generic/layers/sweep.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Columns [in, out) of every row of `rows` become the parameters.
template <class T>
void append_parameters(const Sweep<T>& s, Index l, const T* theta, T* rows) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = layer.in; c < layer.out; ++c) rows[r * p.output_width + c] = theta[p.shift + c - layer.in];
}

template <class T>
void append_forward(const Sweep<T>& s, Index l) {
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < s.layer(l).in; ++c) s.output(l)[r * p.output_width + c] = s.input(l)[r * p.input_width + c];
  append_parameters(s, l, s.theta, s.output(l));
}

template <class T>
void append_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < s.layer(l).in; ++c)
      d.output(l)[r * p.output_width + c] = l == 0 ? T(0) : d.input(l)[r * p.input_width + c];
  append_parameters(s, l, d.theta, d.output(l));
}

// The first columns of the adjoint (`of` = s) or of its tangent (`of` = d), gated by a ReLU before.
template <class T>
void append_backward(const Sweep<T>& s, const Sweep<T>& of, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < layer.in; ++c) {
      const bool open = !layer.input_relu || s.input(l)[r * p.input_width + c] > T(0);
      of.delta(l)[r * p.input_width + c] = open ? of.output_delta(l)[r * p.output_width + c] : T(0);
    }
}

// The other columns, summed over samples; the same for the tangent.
template <class T>
void append_gradient(const Sweep<T>& s, const Sweep<T>& of, Index l, const Destination<T>& to) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const Index count = layer.out - layer.in;
  for (Index c = 0; c < padded<T>(count); ++c) {
    T sum = 0;
    for (Index r = 0; c < count && r < s.n; ++r) sum += of.output_delta(l)[r * p.output_width + layer.in + c];
    put(to, p.shift + c, sum);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
