// Products through the outputs' Jacobian, which is kept: of a straight ReLU network, a matrix product a layer each way.
#pragma once

#include "cross_sums.h"
#include "passes.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// d output[o] / d (layer l's input before its ReLU) [rows, input width], for l from 1 to linears - 2.
template <class T>
T* jacobian_at(const Sweep<T>& s, const KeptForm<T>& form, T* piece, Index l, Index o) {
  for (Index k = 1; k < l; ++k) piece += form.outputs * s.shape.support * s.place(k).input_width;
  return piece + o * s.shape.support * s.place(l).input_width;
}

template <class T>
void one_hot(const Sweep<T>& s, Index l, Index o, T* to) {
  const Index width = s.place(l).output_width;
  zero(to, s.n * width);
  for (Index r = 0; r < s.n; ++r) to[r * width + o] = T(1);
}

// Adjoints of each output by itself, from the last layer down.
template <class T>
void keep_jacobian(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece) {
  const Index last = form.linears - 1;
  zero(piece, form.piece);
  for (Index o = 0; o < form.outputs && last > 1; ++o) {
    one_hot(s, last, o, d.output_delta(last));
    const T* adjoints = d.output_delta(last);
    for (Index l = last; l >= 1; --l) {
      T* to = l == last ? d.delta(l) : jacobian_at(s, form, piece, l, o);
      propagate(s, l, &adjoints, &s.theta, &s.transposed, 1, to);
      adjoints = to;
    }
  }
}

// What a change of layer l's weights alone does to its outputs.
template <class T>
void direction_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const T* weight = d.theta + p.weight;
  const Output<T> out{d.output(l), p.output_width};
  if (layer.layout == Layout::inputs_in_lanes) {
    const DotTerm<T> term{s.input(l), p.input_width, weight, p.packed_width, p.packed_width};
    return matmul_dot(s.n, layer.out, &term, 1, out);
  }
  const Term<T> term{s.input(l), p.input_width, 1, weight, p.packed_width, p.packed_rows};
  matmul(s.n, whole_vectors<T>(layer.out), term, out);
}

template <class T>
inline Wide<T> dot(const T* a, const T* b, Index columns, Wide<T> sum) {
  for (Index c = 0; c < columns; c += kLanes<T>) sum += load<Wide<T>>(a + c) * load<Wide<T>>(b + c);
  return sum;
}

// The same where `a` counts only as far as `by` is positive: the last hidden layer's Jacobian is its gated weights.
template <class T>
inline Wide<T> gated_dot(const T* a, const T* by, const T* b, Index columns, Wide<T> sum) {
  for (Index c = 0; c < columns; c += kLanes<T>)
    sum += gate(load<Wide<T>>(a + c), load<Wide<T>>(by + c)) * load<Wide<T>>(b + c);
  return sum;
}

// Adds to the last layer's own tangents those that come through the hidden layers.
template <class T>
void add_hidden_tangents(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece) {
  const Index last = form.linears - 1;
  const LayerPlace<T>& p = s.place(last);
  for (Index o = 0; o < form.outputs; ++o) {
    const T* weight = s.theta + p.weight + o * p.packed_width;
    for (Index r = 0; r < s.n; ++r) {
      const Index at = r * p.input_width;
      Wide<T> sum = gated_dot(weight, s.input(last) + at, d.input(last) + at, whole_vectors<T>(s.layer(last).in), Wide<T>{});
      for (Index l = 1; l < last; ++l) {
        const Index row = r * s.place(l).input_width;
        sum = dot(jacobian_at(s, form, piece, l, o) + row, d.input(l) + row, whole_vectors<T>(s.layer(l).in), sum);
      }
      d.output(last)[r * p.output_width + o] += horizontal_sum<T>(sum);
    }
  }
}

// sum over outputs of their adjoints times their Jacobians
template <class T>
void hidden_adjoints(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece, Index l) {
  const Index last = form.linears - 1, stride = s.place(last).output_width, width = s.place(l).input_width;
  for (Index o = 0; o < form.outputs; ++o) {
    const T* jacobian = jacobian_at(s, form, piece, l, o);
    for (Index r = 0; r < s.n; ++r) {
      const Wide<T> adjoint = splat<Wide<T>>(d.output_delta(last)[r * stride + o]);
      T* to = d.delta(l) + r * width;
      for (Index c = 0; c < whole_vectors<T>(s.layer(l).in); c += kLanes<T>) {
        const Wide<T> part = adjoint * load<Wide<T>>(jacobian + r * width + c);
        store(to + c, o == 0 ? part : load<Wide<T>>(to + c) + part);
      }
    }
  }
}

template <class T>
void jacobian_forward(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece) {
  const Timed timed("Jacobian forward", kNoLayer, s.n);
  for (Index l = 0; l < form.linears; ++l) direction_forward(s, d, l);
  add_hidden_tangents(s, d, form, piece);
  if (s.depth() > form.linears) append_tangent_forward(s, d, form.linears);
}

template <class T>
void jacobian_backward(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece,
                       const Destination<T>& to) {
  const Timed timed("Jacobian backward", kNoLayer, s.n);
  const Index last = form.linears - 1;
  if (s.depth() > form.linears) {
    append_gradient(s, d, form.linears, to);
    append_backward(s, d, form.linears);
  }
  for (Index l = last; l >= 0; --l) {
    const T* inputs = s.input(l);
    const T* adjoints = d.output_delta(l);
    weight_gradient(s, l, &inputs, &adjoints, 1, to);
    if (l == last) propagate(s, l, &adjoints, &s.theta, &s.transposed, 1, d.delta(l));
    else if (l > 0) hidden_adjoints(s, d, form, piece, l);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
