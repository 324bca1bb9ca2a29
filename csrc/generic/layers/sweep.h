// One network on one sample set of one task: where each layer's rows lie. docs/mathematics.md has the notation.
#pragma once

#include "generic/tiles/matmul.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Where a gradient goes. base: out = base - by * gradient (by = nullptr: scale * gradient); no base: out = gradient.
template <class T>
struct Destination {
  T* out;
  const T* base = nullptr;
  const T* by = nullptr;
  T scale = T(1);
};

template <class V, class T>
inline void put(const Destination<T>& to, Index at, V gradient) {
  gradient *= to.by ? load<V>(to.by + at) : splat<V>(to.scale);
  store(to.out + at, to.base ? load<V>(to.base + at) - gradient : gradient);
}

// The first layer through Gram matrices (generic/forms/copies/gram.h); null where its weights are copied like any
// other's.
template <class T>
struct GramRows {
  const T* initial;        // X W_0 + b_0          [n, padded(out)]
  const T* products;       // -lr (X X_s^T + 1)    [n, stride]
  const T* tangent_base;   // the query set's part of the tangent  [N, padded(out)]
  Index stride, supports;  // support samples = coefficient rows
};

// Images in memory: pixel (y, x) of a sample starts at `at + sample * n + row * y + pixel * x`.
template <class T>
struct Map {
  T* at;
  Index sample, row, pixel;
  T* operator()(Index n, Index y, Index x) const { return at + sample * n + row * y + pixel * x; }
};

template <class T>
struct Sweep {
  const Network& network;
  const Shape<T>& shape;
  Index n;
  const T* theta;       // packed parameters
  const T* transposed;  // their transposed copies
  T* state;
  T* data;  // the first layer's input [n, width]
  const GramRows<T>* gram = nullptr;
  const double* patches = nullptr;  // of a stem: mean and covariance of the data's patches (generic/images/patches.h)
  Index first = 0;                  // the first of its rows, where it is a part of a larger sample set

  Index depth() const { return network.depth; }
  const Layer& layer(Index l) const { return network.layers[l]; }
  const LayerPlace<T>& place(Index l) const { return shape.places[l]; }
  T* input(Index l) const { return (l == 0 ? data : state + place(l).input) + first * place(l).input_width; }
  T* delta(Index l) const { return state + place(l).delta + first * place(l).input_width; }
  // Of the units of a layer's input; null where it is not kept.
  Bits* open(Index l) const {
    if (l >= depth() || place(l).open < 0) return nullptr;
    return reinterpret_cast<Bits*>(state + place(l).open) + first;
  }
  T* output(Index l) const { return l + 1 < depth() ? input(l + 1) : outputs(); }
  T* output_delta(Index l) const { return l + 1 < depth() ? delta(l + 1) : outputs_delta(); }
  T* outputs() const { return state + shape.output + first * shape.output_width; }
  T* outputs_delta() const { return state + shape.output_delta + first * shape.output_width; }
  T* probabilities() const { return state + shape.probabilities + first * shape.output_width; }

  Map<T> input_map(Index l) const { return map(input(l), place(l).input_image); }
  Map<T> delta_map(Index l) const { return map(delta(l), place(l).delta_image); }
  Map<T> output_map(Index l) const { return l + 1 < depth() ? input_map(l + 1) : rows(output(l)); }
  Map<T> output_delta_map(Index l) const { return l + 1 < depth() ? delta_map(l + 1) : rows(output_delta(l)); }

 private:
  static Map<T> map(T* at, const Image& i) { return {at + i.origin, i.sample, i.row, i.pixel}; }
  Map<T> rows(T* at) const { return {at, shape.output_width, shape.output_width, shape.output_width}; }
};

// A column of ones beside a linear layer's input multiplies the bias. Vector stores of a ragged width wipe it.
template <class T>
inline void write_ones(const Sweep<T>& s, Index l, bool always) {
  if (l >= s.depth()) return;
  const Layer& layer = s.layer(l);
  if (layer.kind != Kind::linear || layer.bias < 0) return;
  if (!always && layer.in == padded<T>(layer.in)) return;
  T* column = s.input(l) + layer.in;
  for (Index r = 0; r < s.n; ++r) column[r * s.place(l).input_width] = T(1);
}

template <class T>
inline void zero(T* at, Index count) {
  for (Index i = 0; i < count; ++i) at[i] = T(0);
}

template <class T>
inline void scale(T* at, Index count, T by) {
  for (Index i = 0; i < count; ++i) at[i] *= by;
}
template <class T>
inline void copy(const T* from, Index count, T* to) {
  if (count == 1) *to = *from;  // most often; the library's call costs more than a sample of one number
  else __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
}

// All that surrounds the pixels of one sample.
template <class T>
void zero_border(T* sample, const Image& image) {
  const Index wide = image.before[1] + image.size[1] + image.after[1];
  T* end = sample + (image.before[0] + image.size[0]) * image.row;
  zero(sample, image.before[0] * image.row);
  zero(end, image.after[0] * image.row);
  for (T* row = sample + image.before[0] * image.row; row < end; row += image.row) {
    zero(row, image.before[1] * image.pixel);
    zero(row + (wide - image.after[1]) * image.pixel, image.after[1] * image.pixel);
  }
}

// Once per workspace: the ones stand, and after that every pass keeps them so, and the padding zero.
template <class T>
void prepare_ones(const Network& network, const Shape<T>& shape, T* state) {
  const Sweep<T> s{network, shape, shape.rows, nullptr, nullptr, state, nullptr};
  for (Index l = 1; l < s.depth(); ++l) write_ones(s, l, true);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
