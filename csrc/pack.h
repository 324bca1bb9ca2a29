// Between the user's flat parameter vector (torch's order) and the packed one (padded rows, lanes first).
#pragma once

#include "network.h"

namespace fastmaml {

// Calls visit(user index, packed index) for every parameter that is packed.
template <class T, class Visit>
static void visit_linear(const Layer& layer, const LayerPlace<T>& place, Visit visit) {
  if (layer.layout == Layout::gram) return;
  const bool outputs = layer.layout == Layout::outputs_in_lanes;
  const Index row = outputs ? 1 : place.packed_width, column = outputs ? place.packed_width : 1;
  for (Index o = 0; o < layer.out; ++o) {
    const Index at = place.weight + o * row;
    for (Index i = 0; i < layer.in; ++i) visit(layer.weight + o * layer.in + i, at + i * column);
    if (layer.bias >= 0) visit(layer.bias + o, at + layer.in * column);
  }
}

template <class T, class Visit>
static void visit_parameters(const Network& network, const Shape<T>& shape, Visit visit) {
  for (Index l = 0; l < network.depth; ++l) {
    const Layer& layer = network.layers[l];
    const LayerPlace<T>& place = shape.places[l];
    if (layer.kind == Kind::linear) visit_linear(layer, place, visit);
    if (layer.kind == Kind::append)
      for (Index c = 0; c < layer.out - layer.in; ++c) visit(layer.bias + c, place.shift + c);
    if (layer.kind != Kind::batch_norm) continue;
    for (Index c = 0; c < layer.out; ++c) {
      if (layer.weight >= 0) visit(layer.weight + c, place.scale + c);
      if (layer.bias >= 0) visit(layer.bias + c, place.shift + c);
    }
  }
}

template <class T>
static void pack(const Network& network, const Shape<T>& shape, const T* user, T* packed) {
  for (Index i = 0; i < shape.packed; ++i) packed[i] = T(0);
  visit_parameters(network, shape, [=](Index from, Index to) { packed[to] = user[from]; });
}

template <class T>
static void unpack(const Network& network, const Shape<T>& shape, const T* packed, T scale, T* user) {
  visit_parameters(network, shape, [=](Index to, Index from) { user[to] = scale * packed[from]; });
}

}  // namespace fastmaml
