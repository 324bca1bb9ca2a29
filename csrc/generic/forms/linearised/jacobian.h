// Products through the outputs' Jacobian, which is kept: of a straight ReLU network, a matrix product a layer each way.
#pragma once

#include "generic/forms/linearised/cross_sums.h"
#include "generic/passes/network.h"

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

// Q outputs' tangents of one row: what the last layer's own change does, and what comes through the hidden layers. The
// last hidden layer's Jacobian is the last layer's gated weights; those of the others are kept.
template <int Q, class T>
inline void output_tangents(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece, Index o, Index r) {
  const Index last = form.linears - 1;
  const LayerPlace<T>& p = s.place(last);
  const T *weight = s.theta + p.weight + o * p.packed_width, *change = d.theta + p.weight + o * p.packed_width;
  const T *input = s.input(last) + r * p.input_width, *tangent = d.input(last) + r * p.input_width;
  Wide<T> own[Q] = {}, through[Q] = {}, kept[Q] = {};
  for (Index c = 0; c < whole_vectors<T>(s.layer(last).in + 1); c += kLanes<T>) {
    const Wide<T> x = load<Wide<T>>(input + c), gated = gate(load<Wide<T>>(tangent + c), x);
    for (int q = 0; q < Q; ++q) own[q] += load<Wide<T>>(change + q * p.packed_width + c) * x;
    for (int q = 0; q < Q; ++q) through[q] += load<Wide<T>>(weight + q * p.packed_width + c) * gated;
  }
  for (Index l = 1; l < last; ++l) {
    const Index row = r * s.place(l).input_width, size = s.shape.support * s.place(l).input_width;
    const T *jacobian = jacobian_at(s, form, piece, l, o) + row, *hidden = d.input(l) + row;
    for (Index c = 0; c < whole_vectors<T>(s.layer(l).in); c += kLanes<T>)
      for (int q = 0; q < Q; ++q) kept[q] += load<Wide<T>>(jacobian + q * size + c) * load<Wide<T>>(hidden + c);
  }
  T* to = d.output(last) + r * p.output_width + o;
  for (int q = 0; q < Q; ++q) to[q] = horizontal_sum<T>(own[q] + through[q] + kept[q]);
}

template <class T>
void all_output_tangents(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece) {
  for (Index r = 0; r < s.n; ++r) {
    Index o = 0;
    for (; o + 2 <= form.outputs; o += 2) output_tangents<2>(s, d, form, piece, o, r);
    if (o < form.outputs) output_tangents<1>(s, d, form, piece, o, r);
  }
}

// Of one row, the sum over Q outputs of their adjoints times their Jacobians; the first outputs write, others add.
template <int Q, class T>
inline void hidden_adjoint(const T* adjoints, const T* jacobian, Index size, Index columns, bool add, T* to) {
  Wide<T> adjoint[Q];
  for (int q = 0; q < Q; ++q) adjoint[q] = splat<Wide<T>>(adjoints[q]);
  for (Index c = 0; c < columns; c += kLanes<T>) {
    Wide<T> sum = add ? load<Wide<T>>(to + c) : Wide<T>{};
    for (int q = 0; q < Q; ++q) sum += adjoint[q] * load<Wide<T>>(jacobian + q * size + c);
    store(to + c, sum);
  }
}

template <class T>
void hidden_adjoints(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece, Index l) {
  const Index last = form.linears - 1, width = s.place(l).input_width, size = s.shape.support * width;
  const Index columns = whole_vectors<T>(s.layer(l).in);
  for (Index r = 0; r < s.n; ++r) {
    const T* adjoints = d.output_delta(last) + r * s.place(last).output_width;
    const T* jacobian = jacobian_at(s, form, piece, l, 0) + r * width;
    T* to = d.delta(l) + r * width;
    Index o = 0;
    for (; o + 2 <= form.outputs; o += 2)
      hidden_adjoint<2>(adjoints + o, jacobian + o * size, size, columns, o > 0, to);
    if (o < form.outputs) hidden_adjoint<1>(adjoints + o, jacobian + o * size, size, columns, o > 0, to);
  }
}

template <class T>
void jacobian_forward(const Sweep<T>& s, const Sweep<T>& d, const KeptForm<T>& form, T* piece) {
  const Timed timed("Jacobian forward", kNoLayer, s.n);
  for (Index l = 0; l < form.linears - 1; ++l) direction_forward(s, d, l);
  all_output_tangents(s, d, form, piece);
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
