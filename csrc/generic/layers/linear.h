// Linear layers: z = a W + b (ReLU fused), its adjoints, and the tangents of both.
#pragma once

#include "generic/layers/sweep.h"
#include "generic/tiles/transpose.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
void transpose_layer(const Layer& layer, const LayerPlace<T>& p, const T* packed, T* transposed) {
  if (!p.has_transposed) return;
  transpose(packed + p.weight, layer.in, p.packed_width, transposed + p.transposed, layer.out, padded<T>(layer.in));
}

template <class T>
void transpose_weights(const Network& network, const Shape<T>& shape, const T* packed, T* transposed) {
  for (Index l = 0; l < network.depth; ++l) transpose_layer(network.layers[l], shape.places[l], packed, transposed);
}

template <class T>
Output<T> forward_output(const Sweep<T>& s, Index l) {
  Output<T> out{s.output(l), s.place(l).output_width};
  out.finish = s.layer(l).relu ? Finish::relu : Finish::store;
  return out;
}

// x W + b with the outputs in lanes. The bias is one more row of weights, which a column of ones multiplies; where
// closed units are skipped, of which the ones are none, every row of the outputs starts from it instead.
template <class T>
Term<T> forward_term(const Sweep<T>& s, Index l, const T* x, const T* weight, Output<T>& out) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  if (!s.open(l)) return {x, p.input_width, 1, weight, p.packed_width, p.packed_rows};
  if (layer.bias >= 0) out.base = weight + layer.in * p.packed_width;
  return {x, p.input_width, 1, weight, p.packed_width, layer.in, s.open(l)};
}

// x' W of a tangent, which has no bias and follows what the samples open
template <class T>
Term<T> tangent_term(const Sweep<T>& s, Index l, const T* x, const T* weight) {
  const LayerPlace<T>& p = s.place(l);
  return {x, p.input_width, 1, weight, p.packed_width, s.layer(l).in, s.open(l)};
}

// After a layer's input has been made.
template <class T>
void note_open(const Sweep<T>& s, Index l) {
  Bits* open = s.open(l);
  if (!open) return;
  const Index units = s.layer(l).in, width = s.place(l).input_width;
  for (Index r = 0; r < s.n; ++r) open[r] = nonzero_bits(s.input(l) + r * width, units);
}

template <class T>
void linear_forward(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const T* weight = s.theta + p.weight;
  Output<T> out = forward_output(s, l);
  if (layer.layout == Layout::inputs_in_lanes) {
    const DotTerm<T> term{s.input(l), p.input_width, weight, p.packed_width, p.packed_width};
    return matmul_dot(s.n, layer.out, &term, 1, out);
  }
  Term<T> term = forward_term(s, l, s.input(l), weight, out);
  if (layer.layout == Layout::gram) {  // z = z_0 - lr (X X_s^T + 1) C
    term.a = s.gram->products;
    term.a_row = s.gram->stride;
    term.depth = s.gram->supports;
    out.base = s.gram->initial;
    out.base_row = p.packed_width;
  }
  matmul(s.n, whole_vectors<T>(layer.out), term, out);
}

// The adjoint of the input, gated by the ReLU that produced it.
template <class T>
Output<T> backward_output(const Sweep<T>& s, T* to, Index l) {
  Output<T> out{to, s.place(l).input_width};
  if (s.layer(l).input_relu) {
    out.finish = Finish::gate;
    out.by = s.input(l);
    out.by_row = s.place(l).input_width;
  }
  return out;
}

// sum over i of adjoints[i] W_i^T, for one pair (backward) or two (tangent of it)
template <class T>
void propagate(const Sweep<T>& s, Index l, const T* const* adjoints, const T* const* packed, const T* const* transposed,
               int pairs, T* to) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const Output<T> out = backward_output(s, to, l);
  if (layer.layout == Layout::outputs_in_lanes && !p.has_transposed) {
    DotTerm<T> terms[2];
    for (int i = 0; i < pairs; ++i)
      terms[i] = {adjoints[i], p.output_width, packed[i] + p.weight, p.packed_width, p.packed_width};
    return matmul_dot(s.n, layer.in, terms, pairs, out);
  }
  Term<T> terms[2];
  for (int i = 0; i < pairs; ++i) {
    const bool copied = p.has_transposed;
    terms[i] = {adjoints[i],
                p.output_width,
                1,
                copied ? transposed[i] + p.transposed : packed[i] + p.weight,
                copied ? padded<T>(layer.in) : p.packed_width,
                layer.out,
                s.open(l + 1)};
  }
  matmul(s.n, whole_vectors<T>(layer.in), terms, pairs, out);
  // W's bias column lands in the padding; it must stay zero.
  if (!p.has_transposed && layer.in % kLanes<T>)
    for (Index r = 0; r < s.n; ++r) to[r * p.input_width + layer.in] = T(0);
}

template <class T>
void linear_backward(const Sweep<T>& s, Index l) {
  const T* adjoints[] = {s.output_delta(l)};
  propagate(s, l, adjoints, &s.theta, &s.transposed, 1, s.delta(l));
}

// inputs^T adjoints, summed over samples
template <class T>
Term<T> gradient_term(const Sweep<T>& s, Index l, const T* inputs, const T* adjoints) {
  const LayerPlace<T>& p = s.place(l);
  if (s.layer(l).layout == Layout::outputs_in_lanes) return {inputs, 1, p.input_width, adjoints, p.output_width, s.n};
  return {adjoints, 1, p.output_width, inputs, p.input_width, s.n};
}

// sum over i of inputs[i]^T adjoints[i] into the destination
template <class T>
void weight_gradient(const Sweep<T>& s, Index l, const T* const* inputs, const T* const* adjoints, int pairs,
                     const Destination<T>& to) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  Term<T> terms[2];
  const bool outputs = layer.layout == Layout::outputs_in_lanes;
  for (int i = 0; i < pairs; ++i) terms[i] = gradient_term(s, l, inputs[i], adjoints[i]);
  Output<T> out{to.out + p.weight, p.packed_width};
  if (to.base) {
    out.finish = to.by ? Finish::weighted_update : to.scale == T(1) ? Finish::update : Finish::scaled_update;
    out.scale = to.scale;
    out.base = to.base + p.weight;
    out.base_row = p.packed_width;
    out.by = to.by ? to.by + p.weight : nullptr;
    out.by_row = p.packed_width;
  }
  // A first write makes the padding zero, an update leaves it so.
  const Index columns = to.base ? whole_vectors<T>(outputs ? layer.out : layer.in + 1) : p.packed_width;
  matmul(p.packed_rows, columns, terms, pairs, out);
}

// Coefficients of a Gram layer are the adjoints themselves: out = base + adjoint (base = nullptr: adjoint).
template <class T>
void gram_gradient(const Sweep<T>& s, const T* adjoint, const T* base, T* to) {
  const LayerPlace<T>& p = s.place(0);
  for (Index r = 0; r < s.n; ++r)
    for (Index c = 0; c < p.packed_width; ++c) {
      const T value = adjoint[r * p.output_width + c];
      to[r * p.packed_width + c] = base ? base[r * p.packed_width + c] + value : value;
    }
}

template <class T>
void linear_gradient(const Sweep<T>& s, Index l, const Destination<T>& to) {
  if (s.layer(l).layout == Layout::gram) {
    const Index at = s.place(l).weight;
    return gram_gradient<T>(s, s.output_delta(l), to.base ? to.base + at : nullptr, to.out + at);
  }
  const T* inputs[] = {s.input(l)};
  const T* adjoints[] = {s.output_delta(l)};
  weight_gradient(s, l, inputs, adjoints, 1, to);
}

// ---- tangents: `d` is the sweep in the direction (its theta is the direction, its state the tangents) ----

// The tangent of a layer's output, gated by its ReLU.
template <class T>
Output<T> tangent_output(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  Output<T> out{d.output(l), s.place(l).output_width};
  if (s.layer(l).relu) {
    out.finish = Finish::gate;
    out.by = s.output(l);
    out.by_row = s.place(l).output_width;
  }
  return out;
}

template <class T>
void linear_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const int pairs = l == 0 ? 1 : 2;  // the data's tangent is zero
  Output<T> out = tangent_output(s, d, l);
  if (layer.layout == Layout::inputs_in_lanes) {
    const DotTerm<T> terms[] = {{s.input(l), p.input_width, d.theta + p.weight, p.packed_width, p.packed_width},
                                {d.input(l), p.input_width, s.theta + p.weight, p.packed_width, p.packed_width}};
    return matmul_dot(s.n, layer.out, terms, pairs, out);
  }
  Term<T> terms[] = {forward_term(s, l, s.input(l), d.theta + p.weight, out),
                     tangent_term(s, l, d.input(l), s.theta + p.weight)};
  if (layer.layout == Layout::gram) {
    terms[0].a = s.gram->products;
    terms[0].a_row = s.gram->stride;
    terms[0].depth = s.gram->supports;
    out.base = s.gram->tangent_base;
    out.base_row = p.packed_width;
  }
  matmul(s.n, whole_vectors<T>(layer.out), terms, pairs, out);
}

template <class T>
void linear_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const T* adjoints[] = {s.output_delta(l), d.output_delta(l)};
  const T* packed[] = {d.theta, s.theta};
  const T* transposed[] = {d.transposed, s.transposed};
  propagate(s, l, adjoints, packed, transposed, 2, d.delta(l));
}

template <class T>
void linear_tangent_gradient(const Sweep<T>& s, const Sweep<T>& d, Index l, const Destination<T>& to) {
  if (s.layer(l).layout == Layout::gram) {
    const Index at = s.place(l).weight;
    return gram_gradient<T>(s, d.output_delta(l), to.base + at, to.out + at);
  }
  const T* inputs[] = {s.input(l), d.input(l)};
  const T* adjoints[] = {d.output_delta(l), s.output_delta(l)};
  weight_gradient(s, l, inputs, adjoints, l == 0 ? 1 : 2, to);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
