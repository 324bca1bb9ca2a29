// Between the user's flat parameter vector (torch's order) and the packed one (padded rows, lanes first).
#pragma once

#include "plain/network.h"

// Into whoever calls them, as these have no name of an instruction set.
#define FASTMAML_INLINE __attribute__((always_inline)) inline

namespace fastmaml {

// The packed column of a linear layer's input i. Of a flattened image torch has channels first, and we have them last.
template <class T>
static Index packed_input(const Layer& layer, Index i) {
  return layer.channels > 0 ? i % layer.pixels * padded<T>(layer.channels) + i / layer.pixels : i;
}

// Calls visit(user index, packed index) for every parameter that is packed.
template <class T, class Visit>
FASTMAML_INLINE static void visit_linear(const Layer& layer, const LayerPlace<T>& place, Visit visit) {
  if (layer.layout == Layout::gram) return;
  const bool outputs = layer.layout == Layout::outputs_in_lanes;
  const Index row = outputs ? 1 : place.packed_width, column = outputs ? place.packed_width : 1;
  const Index inputs = layer.channels > 0 ? layer.channels * layer.pixels : layer.in;
  for (Index o = 0; o < layer.out; ++o) {
    const Index at = place.weight + o * row;
    for (Index i = 0; i < inputs; ++i) visit(layer.weight + o * inputs + i, at + packed_input<T>(layer, i) * column);
    if (layer.bias >= 0) visit(layer.bias + o, at + layer.in * column);
  }
}

// torch: [out, in, ky, kx]; packed: [panel of outputs, ky, kx, in, outputs of the panel], biases apart.
template <class T, class Visit>
FASTMAML_INLINE static void visit_conv(const Layer& layer, const LayerPlace<T>& place, Visit visit) {
  const Index taps = layer.window.kernel[0] * layer.window.kernel[1];
  for (Index o = 0; o < layer.out; ++o) {
    const Index panel = place.weight + o / kPanel<T> * place.packed_rows * kPanel<T> + o % kPanel<T>;
    for (Index i = 0; i < layer.in; ++i)
      for (Index tap = 0; tap < taps; ++tap)
        visit(layer.weight + (o * layer.in + i) * taps + tap, panel + (tap * layer.in + i) * kPanel<T>);
    if (layer.bias >= 0) visit(layer.bias + o, place.shift + o);
  }
}

template <class T, class Visit>
FASTMAML_INLINE static void visit_layer(const Layer& layer, const LayerPlace<T>& place, Visit visit) {
  if (layer.kind == Kind::linear) visit_linear(layer, place, visit);
  if (layer.kind == Kind::conv) visit_conv(layer, place, visit);
  if (layer.kind == Kind::append)
    for (Index c = 0; c < layer.out - layer.in; ++c) visit(layer.bias + c, place.shift + c);
  if (layer.kind != Kind::batch_norm) return;
  for (Index c = 0; c < layer.out; ++c) {
    if (layer.weight >= 0) visit(layer.weight + c, place.scale + c);
    if (layer.bias >= 0) visit(layer.bias + c, place.shift + c);
  }
}

template <class T, class Visit>
FASTMAML_INLINE static void visit_parameters(const Network& network, const Shape<T>& shape, Visit visit) {
  for (Index l = 0; l < network.depth; ++l) visit_layer(network.layers[l], shape.places[l], visit);
}

template <class T>
FASTMAML_INLINE static void pack(const Network& network, const Shape<T>& shape, const T* user, T* packed) {
  for (Index i = 0; i < shape.packed; ++i) packed[i] = T(0);
  visit_parameters(network, shape, [=](Index from, Index to) { packed[to] = user[from]; });
}

template <class T>
FASTMAML_INLINE static void unpack(const Network& network, const Shape<T>& shape, const T* packed, T scale, T* user) {
  visit_parameters(network, shape, [=](Index to, Index from) { user[to] = scale * packed[from]; });
}

}  // namespace fastmaml
