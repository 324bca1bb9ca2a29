// Where images lie: each layer's input with the border its convolution needs, and the adjoint of that input with
// the border that the convolution before it needs on its way back.
#pragma once

#include <algorithm>

#include "machine/size.h"
#include "plain/network.h"

namespace fastmaml {

// Lays out images of `size` pixels with the borders given; returns the elements of one sample.
template <class T>
Index lay_out(Image& image, Index pixel) {
  const Index wide = image.before[1] + image.size[1] + image.after[1];
  const Index high = image.before[0] + image.size[0] + image.after[0];
  image.pixel = pixel;
  image.row = wide * pixel;
  // An odd number of cache lines: pixels that a stride lets be read from several rows else meet in a few sets.
  const bool bordered = image.before[1] + image.after[1] > 0;
  if (bordered && pixel % kPanel<T> == 0 && image.row / kPanel<T> % 2 == 0) image.row += kPanel<T>;
  image.sample = high * image.row;
  image.origin = image.before[0] * image.row + image.before[1] * pixel;
  return image.sample;
}

// Zeros around the input spare the convolution every question whether a tap lies inside.
static inline Image input_image(const Layer& layer) {
  Image image;
  for (int axis = 0; axis < 2; ++axis) {
    image.size[axis] = layer.in_size[axis];
    if (layer.kind == Kind::conv) image.before[axis] = image.after[axis] = layer.window.pad[axis];
  }
  return image;
}

// Input pixel i met output pixel (i + pad - tap) / stride; those beyond the image are zero.
static inline Image delta_image(const Layer* before, const Layer& layer) {
  Image image;
  for (int axis = 0; axis < 2; ++axis) {
    image.size[axis] = layer.in_size[axis];
    if (!before || before->kind != Kind::conv) continue;
    const Window& w = before->window;
    image.before[axis] = (w.kernel[axis] - 1 - w.pad[axis]) / w.stride[axis];
    const Index last = (before->in_size[axis] - 1 + w.pad[axis]) / w.stride[axis];
    image.after[axis] = std::max<Index>(0, last + 1 - layer.in_size[axis]);
  }
  return image;
}

template <class T>
void place_conv(const Layer& layer, LayerPlace<T>& place, Shape<T>& shape, bool first) {
  const Index taps = layer.window.kernel[0] * layer.window.kernel[1];
  const Index in = padded<T>(layer.in), out = padded<T>(layer.out);
  place.packed_rows = taps * layer.in;
  place.packed_width = out;
  place.weight = shape.packed;
  shape.packed += aligned<T>(elements(place.packed_rows, out));
  place.shift = shape.packed;
  shape.packed += layer.bias >= 0 ? out : 0;
  place.has_transposed = !first;
  place.transposed = shape.transposed;
  shape.transposed += first ? 0 : aligned<T>(elements(taps, layer.out, in));
}

template <class T>
void place_image_norm(const Layer& layer, LayerPlace<T>& place, Shape<T>& shape) {
  const Index width = padded<T>(layer.out);
  place.scale = shape.packed;
  shape.packed += layer.weight >= 0 ? width : 0;
  place.shift = shape.packed;
  shape.packed += layer.bias >= 0 ? width : 0;
  place.statistics = shape.state;
  shape.state += aligned<T>(elements(kNumStatistics, width));
  place.sums = shape.state;
  shape.state += aligned<T>(elements(kNumSums, width, static_cast<Index>(sizeof(double) / sizeof(T))));
}

// The largest input of each window, and which it was, both [n, out_y, out_x, padded(channels)].
template <class T>
void place_choice(const Layer& layer, LayerPlace<T>& place, Shape<T>& shape) {
  const Index size = aligned<T>(elements(shape.rows, layer.out_size[0], layer.out_size[1], padded<T>(layer.out)));
  place.selected = shape.state;
  shape.state += layer.pool || layer.stem ? size : 0;
  place.choice = shape.state;
  shape.state += layer.pool || !layer.stem ? size : 0;
}

// What the batch norm of a stem keeps in the place of its input and of that one's adjoint.
template <class T>
void place_stem(const Layer& conv, const Layer& norm, LayerPlace<T>& place, Shape<T>& shape) {
  constexpr Index doubles = static_cast<Index>(sizeof(double) / sizeof(T));
  const Index rows = conv.window.kernel[0] * conv.window.kernel[1] * conv.in, width = padded<T>(norm.out);
  place.lines = shape.state;
  shape.state += aligned<T>(elements(stem_lines(norm), norm.in_size[1], width));
  place.spread = shape.state;
  shape.state += aligned<T>(elements(rows, width, doubles));
  place_image_norm(norm, place, shape);
  place_choice(norm, place, shape);
  shape.patches = aligned<T>(elements(rows, (rows + 1), doubles));
}

template <class T>
void place_image(const Layer* before, const Layer& layer, LayerPlace<T>& place, Shape<T>& shape) {
  if (before && layer.stem) return place_stem(*before, layer, place, shape);
  // The data of a first convolution are read one scalar at a time, and so need no padding.
  const bool dense = !before && layer.kind == Kind::conv;
  place.input_image = input_image(layer);
  place.delta_image = delta_image(before, layer);
  const Index pixel = padded<T>(layer.in);
  const Index input = lay_out<T>(place.input_image, dense ? layer.in : pixel),
              delta = lay_out<T>(place.delta_image, pixel);
  if (!before) shape.data = input;
  place.input = shape.state;
  shape.state += before ? aligned<T>(elements(shape.rows, input)) : 0;
  place.delta = shape.state;
  shape.state += before ? aligned<T>(elements(shape.rows, delta)) : 0;
  if (layer.kind == Kind::conv) place_conv(layer, place, shape, !before);
  if (layer.kind == Kind::batch_norm) place_image_norm(layer, place, shape);
  if (layer.pool || layer.kind == Kind::max_pool) place_choice(layer, place, shape);
}

// A linear layer takes the pixels of an image as they lie, padding of the channels included.
template <class T>
void flatten_image(Layer& layer, LayerPlace<T>& place) {
  layer.in = layer.pixels * padded<T>(layer.channels);
  place.input_width = padded<T>(layer.in + 1);
  Image& image = place.input_image;
  image.pixel = padded<T>(layer.channels);
  image.row = layer.in_size[1] * image.pixel;
  image.sample = place.input_width;
  place.delta_image = image;
}

template <class T>
Index conv_gradient_size(const std::vector<LayerPlace<T>>& places, const std::vector<Layer>& layers) {
  Index most = 0;
  for (std::size_t l = 0; l < layers.size(); ++l)
    if (layers[l].kind == Kind::conv) most = std::max(most, (places[l].packed_rows + 1) * places[l].packed_width);
  return most;
}

}  // namespace fastmaml
