// The parameters that all tasks share, packed once a call, and the mean gradient on its way back to the user.
#pragma once

#include "generic/layers/linear.h"
#include "generic/passes/images.h"
#include "plain/copies.h"
#include "plain/pack.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Whether a layer's transposed copy is torch's own weight [out, in], each row padded.
template <class T>
bool is_transposed_alone(const Layer& layer, const LayerPlace<T>& p) {
  return layer.kind == Kind::linear && p.has_transposed && layer.channels == 0;
}

template <class T>
void pack_shared(const Call<T>& call) {
  const Timed timed("pack", kNoLayer, 0);
  const T* user = call.parameters;
  T* packed = call.theta;
  zero(packed, call.shape.packed);
  for (Index l = 0; l < call.network.depth; ++l) {
    const Layer& layer = call.network.layers[l];
    const LayerPlace<T>& p = call.shape.places[l];
    if (!is_transposed_alone(layer, p)) {
      visit_layer(layer, p, [=](Index from, Index to) { packed[to] = user[from]; });
      transpose_any(layer, p, packed, call.theta_transposed);
      continue;
    }
    const Index width = padded<T>(layer.in);
    T* rows = call.theta_transposed + p.transposed;
    for (Index o = 0; o < layer.out; ++o) {
      copy(user + layer.weight + o * layer.in, layer.in, rows + o * width);
      zero(rows + o * width + layer.in, width - layer.in);
    }
    transpose(rows, layer.out, width, packed + p.weight, layer.in, p.packed_width);
    if (layer.bias >= 0) copy(user + layer.bias, layer.out, packed + p.weight + layer.in * p.packed_width);
  }
}

// The mean over tasks of their sum `total`; the shared parameters' transposed copies are written over.
template <class T>
void unpack_mean(const Call<T>& call, const T* total, T* user) {
  const Timed timed("unpack", kNoLayer, 0);
  const T scale = T(1) / static_cast<T>(call.tasks);
  for (Index l = 0; l < call.network.depth; ++l) {
    const Layer& layer = call.network.layers[l];
    const LayerPlace<T>& p = call.shape.places[l];
    if (!is_transposed_alone(layer, p)) {
      visit_layer(layer, p, [=](Index to, Index from) { user[to] = scale * total[from]; });
      continue;
    }
    const Index width = padded<T>(layer.in);
    const T* rows = call.theta_transposed + p.transposed;
    transpose_layer(layer, p, total, call.theta_transposed);
    for (Index o = 0; o < layer.out; ++o)
      for (Index i = 0; i < layer.in; ++i) user[layer.weight + o * layer.in + i] = scale * rows[o * width + i];
    const T* bias = total + p.weight + layer.in * p.packed_width;
    for (Index o = 0; layer.bias >= 0 && o < layer.out; ++o) user[layer.bias + o] = scale * bias[o];
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
