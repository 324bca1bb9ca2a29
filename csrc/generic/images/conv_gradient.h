// The gradient of a convolution's weights: sums over all pixels of all samples, a chunk of pixels at a time.
#pragma once

#include "generic/images/conv.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct Adjoint {
  Map<T> x, delta;
};

// One panel of the chunk's adjoints, packed; adds their sum to `total`, if that is wanted.
template <class T>
void pack_chunk(const T* delta, const Index* pixels, Index count, T* to, T* total) {
  Wide<T> sum[kPanelVectors] = {};
  for (Index p = 0; p < count; ++p)
    for (int v = 0; v < kPanelVectors; ++v) {
      const Wide<T> value = load<Wide<T>>(delta + pixels[p] + v * kLanes<T>);
      store(to + p * kPanel<T> + v * kLanes<T>, value);
      sum[v] += value;
    }
  if (!total) return;
  for (int v = 0; v < kPanelVectors; ++v) store(total + v * kLanes<T>, load<Wide<T>>(total + v * kLanes<T>) + sum[v]);
}

// Where a row (tap, input channel) of the weights finds its input, from the pixel of an output.
template <class T>
void row_places(const Layer& layer, const Map<T>& x, Index first, Index count, Index* to) {
  const Index width = layer.window.kernel[1];
  Index channel = first % layer.in, tap = first / layer.in;
  for (Index i = 0; i < count; channel = 0, ++tap) {  // channels of a tap lie side by side
    const Index run = layer.in - channel < count - i ? layer.in - channel : count - i;
    const Index y = tap / width - layer.window.pad[0], across = tap % width - layer.window.pad[1];
    const Index at = y * x.row + across * x.pixel + channel;
    for (Index j = 0; j < run; ++j) to[i + j] = at + j;
    i += run;
  }
}

constexpr Index kRowBlock = 48;  // rows of the weights whose places are looked up at a time

// One chunk of pixels: all rows of one panel.
template <class T>
void gradient_panel(const Layer& layer, const Adjoint<T>* adjoints, int pairs, const T (*packed)[kChunk * kPanel<T>],
                    const Index* pixels, Index count, Index rows, bool first, T* sums) {
  Index at[kRowBlock];
  for (Index row = 0; row < rows; row += kRowBlock) {
    const Index block = rows - row < kRowBlock ? rows - row : kRowBlock;
    row_places(layer, adjoints[0].x, row, block, at);
    PixelSum<T> terms[2];
    for (int i = 0; i < pairs; ++i) terms[i] = {adjoints[i].x.at, packed[i]};
    sum_chunk(terms, pairs, at, block, pixels, count, first, sums + row * kPanel<T>);
  }
}

// Sums of x^T delta over pairs, as the weights are laid out, and the bias's after them: the sum of the first delta.
template <class T>
void sum_gradient(const Sweep<T>& s, Index l, const Adjoint<T>* adjoints, int pairs, T* sums) {
  const Layer& layer = s.layer(l);
  const Index rows = s.place(l).packed_rows, width = s.place(l).packed_width;
  const Grid grid{{layer.out_size[0], layer.out_size[1]}};
  const Index total = s.n * grid.pixels(), chunk = kChunk / pairs;
  constexpr Index one[2] = {1, 1};
  T* bias = layer.bias >= 0 ? sums + rows * width : nullptr;
  if (bias) zero(bias, width);
  for (Index first = 0; first < total; first += chunk) {
    const Index count = total - first < chunk ? total - first : chunk;
    Index x_places[kChunk], places_of[2][kChunk];
    alignas(kPadBytes) T packed[2][kChunk * kPanel<T>];
    places(grid, steps(adjoints[0].x, layer.window.stride), first, count, x_places);
    for (int i = 0; i < pairs; ++i) places(grid, steps(adjoints[i].delta, one), first, count, places_of[i]);
    for (Index panel = 0; panel < width; panel += kPanel<T>) {
      for (int i = 0; i < pairs; ++i)
        pack_chunk(adjoints[i].delta.at + panel, places_of[i], count, packed[i],
                   bias && i == 0 ? bias + panel : nullptr);
      gradient_panel(layer, adjoints, pairs, packed, x_places, count, rows, first == 0, sums + panel * rows);
    }
  }
}

template <class T>
void put_all(const Destination<T>& to, Index at, const T* gradient, Index count) {
  for (Index i = 0; i < count; i += kLanes<T>) put(to, at + i, load<Wide<T>>(gradient + i));
}

template <class T>
void conv_sums_to(const Sweep<T>& s, Index l, const Adjoint<T>* adjoints, int pairs, T* sums,
                  const Destination<T>& to) {
  const LayerPlace<T>& p = s.place(l);
  sum_gradient(s, l, adjoints, pairs, sums);
  put_all(to, p.weight, sums, p.packed_rows * p.packed_width);
  if (s.layer(l).bias >= 0) put_all(to, p.shift, sums + p.packed_rows * p.packed_width, p.packed_width);
}

template <class T>
void conv_gradient(const Sweep<T>& s, Index l, const Destination<T>& to) {
  const Adjoint<T> adjoints[] = {{s.input_map(l), s.output_delta_map(l)}};
  conv_sums_to(s, l, adjoints, 1, s.state + s.shape.weight_gradient, to);
}

template <class T>
void conv_tangent_gradient(const Sweep<T>& s, const Sweep<T>& d, Index l, const Destination<T>& to) {
  Adjoint<T> adjoints[2] = {{s.input_map(l), d.output_delta_map(l)}, {}};
  if (l > 0) adjoints[1] = {d.input_map(l), s.output_delta_map(l)};  // the data's tangent is zero
  conv_sums_to(s, l, adjoints, l == 0 ? 1 : 2, d.state + d.shape.weight_gradient, to);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
