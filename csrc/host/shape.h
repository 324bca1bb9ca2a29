// The sizes of everything that one call touches, from the network and the shapes of the batch.
#pragma once

#include <algorithm>
#include <vector>

#include "host/image_shape.h"
#include "machine/size.h"
#include "plain/network.h"

namespace fastmaml {

// Multiply-adds of the first layer per task: with its own weight copies, and through Gram matrices.
inline bool gram_pays(const Layer& layer, Index support, Index query, Index steps) {
  const double d = static_cast<double>(layer.in), h = static_cast<double>(layer.out);
  const double n = static_cast<double>(support), m = static_cast<double>(query), k = static_cast<double>(steps);
  const double dense = (4 * n * k + 2 * m) * d * h;
  const double gram = 2 * (n + m) * d * h + (n + m) * n * d + (2 * n * n * k + 2 * n * m) * h;
  return gram < 0.9 * dense;
}

// Lanes go where less padding is lost; the first layer needs no input gradient, so outputs suit it best.
template <class T>
Layout choose_layout(const Layer& layer, bool first) {
  const double outputs_waste = static_cast<double>(padded<T>(layer.out)) / static_cast<double>(layer.out);
  const double inputs_waste = static_cast<double>(padded<T>(layer.in + 1)) / static_cast<double>(layer.in + 1);
  return outputs_waste <= inputs_waste * (first ? 1.5 : 1.3) ? Layout::outputs_in_lanes : Layout::inputs_in_lanes;
}

template <class T>
void place_linear(Layer& layer, LayerPlace<T>& place, Shape<T>& shape, bool first, bool allow_gram) {
  if (first && allow_gram && gram_pays(layer, shape.support, shape.query, shape.steps)) {
    layer.layout = Layout::gram;
    shape.gram = true;
    place.packed_rows = shape.support;  // one coefficient row per support sample
    place.packed_width = padded<T>(layer.out);
  } else if (layer.layout = choose_layout<T>(layer, first); layer.layout == Layout::outputs_in_lanes) {
    place.packed_rows = layer.in + (layer.bias >= 0 ? 1 : 0);
    place.packed_width = padded<T>(layer.out);
    // Transposing costs in*out once; dot products cost a horizontal sum for each of rows*in results.
    place.has_transposed = !first && layer.out < 20 * shape.rows;
  } else {
    place.packed_rows = layer.out;
    place.packed_width = padded<T>(layer.in + 1);
  }
  place.weight = shape.packed;
  shape.packed += aligned<T>(elements(place.packed_rows, place.packed_width));
  if (place.has_transposed) {
    place.transposed = shape.transposed;
    shape.transposed += aligned<T>(elements(layer.out, padded<T>(layer.in)));
  }
}

template <class T>
void place_batch_norm(const Layer& layer, LayerPlace<T>& place, Shape<T>& shape) {
  const Index width = padded<T>(layer.out);
  place.scale = shape.packed;
  shape.packed += layer.weight >= 0 ? aligned<T>(width) : 0;
  place.shift = shape.packed;
  shape.packed += layer.bias >= 0 ? aligned<T>(width) : 0;
  place.normalised = shape.state;
  shape.state += aligned<T>(elements(shape.rows, width));
  place.statistics = shape.state;
  shape.state += aligned<T>(elements(kNumStatistics, width));
}

// Whether ordered samples leave enough closed: hidden layers of ReLUs that open on one side of some value of the input.
inline bool order_pays(const Network& network) {
  constexpr Index kFewest = 16;  // narrower layers fill no tile
  if (network.inputs != 1 || network.depth < 2) return false;
  for (Index l = 0; l < network.depth; ++l) {
    const Layer& layer = network.layers[l];
    const bool last = l == network.depth - 1;
    if (layer.kind != Kind::linear || layer.image || layer.channels > 0 || layer.relu == last) return false;
    if (!last && (layer.out < kFewest || layer.out > kMostOpen)) return false;
  }
  return true;
}

// Chooses each layer's layout and lays out parameters and state; layers and places outlive the shape.
template <class T>
Shape<T> make_shape(const Network& network, std::vector<Layer>& layers, std::vector<LayerPlace<T>>& places,
                    Index support, Index query, Index steps, bool allow_gram, bool ordered) {
  Shape<T> shape;
  shape.support = support;
  shape.query = query;
  shape.rows = std::max(support, query);
  shape.steps = steps;
  shape.ordered = ordered;
  shape.images = layers.front().image;
  places.assign(layers.size(), {});
  for (std::size_t l = 0; l < layers.size(); ++l) {
    LayerPlace<T>& place = places[l];
    if (layers[l].image) {
      place_image(l > 0 ? &layers[l - 1] : nullptr, layers[l], place, shape);
      continue;
    }
    place.input_width = padded<T>(layers[l].in + 1);  // room for the column of ones
    if (layers[l].channels > 0) flatten_image(layers[l], place);
    if (l == 0) shape.data = place.input_width;
    place.input = shape.state;
    shape.state += l > 0 ? aligned<T>(elements(shape.rows, place.input_width)) : 0;  // the data lie elsewhere
    place.delta = shape.state;
    shape.state += l > 0 ? aligned<T>(elements(shape.rows, place.input_width)) : 0;
    if (ordered && l > 0) {
      place.open = shape.state;
      shape.state += aligned<T>(elements(shape.rows, static_cast<Index>(sizeof(Bits) / sizeof(T))));
    }
    if (l > 0) places[l - 1].output_width = place.input_width;
    if (layers[l].kind == Kind::linear) place_linear(layers[l], place, shape, l == 0, allow_gram);
    if (layers[l].kind == Kind::batch_norm) place_batch_norm(layers[l], place, shape);
    if (layers[l].kind == Kind::append) {
      place.shift = shape.packed;
      shape.packed += aligned<T>(padded<T>(layers[l].out - layers[l].in));
    }
  }
  shape.output_width = padded<T>(network.outputs);
  places.back().output_width = shape.output_width;
  shape.output = shape.state;
  shape.state += aligned<T>(elements(shape.rows, shape.output_width));
  shape.output_delta = shape.state;
  shape.state += aligned<T>(elements(shape.rows, shape.output_width));
  shape.probabilities = shape.state;
  shape.state += network.loss != Loss::mse ? aligned<T>(elements(shape.rows, shape.output_width)) : 0;
  shape.weight_gradient = shape.state;
  shape.state += aligned<T>(conv_gradient_size(places, layers));
  shape.places = places.data();
  return shape;
}

}  // namespace fastmaml
