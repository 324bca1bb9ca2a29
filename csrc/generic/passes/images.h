// What each kind of layer does to images, pass by pass; and the borders, which no pass writes.
#pragma once

#include "generic/images/conv_adjoint.h"
#include "generic/images/conv_gradient.h"
#include "generic/images/norm_adjoint.h"
#include "generic/images/norm_tangent.h"
#include "generic/images/pooling.h"
#include "generic/images/stem.h"
#include "generic/layers/linear.h"
#include "machine/profile.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
void image_forward(const Sweep<T>& s, Index l) {
  if (s.layer(l).stem) return stem_forward(s);
  switch (s.layer(l).kind) {
    case Kind::conv:
      return conv_forward(s, l);
    case Kind::batch_norm:
      return image_norm_forward(s, l);
    case Kind::max_pool:
      return max_pool_forward(s, l);
    case Kind::spatial_mean:
      return spatial_mean<T>(s.layer(l), s.n, s.input_map(l), s.output_map(l), nullptr);
    default:
      return image_activation_forward(s, l);
  }
}

template <class T>
void image_backward(const Sweep<T>& s, Index l) {
  switch (s.layer(l).kind) {
    case Kind::conv:
      return conv_backward(s, l);
    case Kind::batch_norm:
      return image_norm_backward(s, l);
    case Kind::max_pool:
      return max_pool_adjoint(s, l, s.output_delta_map(l), s.delta_map(l));
    case Kind::spatial_mean:
      return spatial_mean_adjoint(s, l, s.output_delta_map(l), s.delta_map(l));
    default:
      return image_activation_backward(s, l);
  }
}

template <class T>
void image_gradient(const Sweep<T>& s, Index l, const Destination<T>& to) {
  if (s.layer(l).kind == Kind::conv) s.layer(l).stem ? stem_gradient(s, to) : conv_gradient(s, l, to);
  if (s.layer(l).kind == Kind::batch_norm) image_norm_gradient(image_norm(s, l), s.place(l), to);
}

template <class T>
void image_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  if (s.layer(l).stem) return stem_tangent_forward(s, d);
  switch (s.layer(l).kind) {
    case Kind::conv:
      return conv_tangent_forward(s, d, l);
    case Kind::batch_norm:
      return image_norm_tangent_forward(s, d, l);
    case Kind::max_pool:
      return max_pool_tangent_forward(s, d, l);
    case Kind::spatial_mean:
      return spatial_mean_tangent_forward(s, d, l);
    default:
      return image_activation_tangent_forward(s, d, l);
  }
}

template <class T>
void image_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  switch (s.layer(l).kind) {
    case Kind::conv:
      return conv_tangent_backward(s, d, l);
    case Kind::batch_norm:
      return image_norm_tangent_backward(s, d, l);
    case Kind::max_pool:
      return max_pool_adjoint(s, l, d.output_delta_map(l), d.delta_map(l));
    case Kind::spatial_mean:
      return spatial_mean_adjoint(s, l, d.output_delta_map(l), d.delta_map(l));
    default:
      return image_activation_tangent_backward(s, d, l);
  }
}

template <class T>
void image_tangent_gradient(const Sweep<T>& s, const Sweep<T>& d, Index l, const Destination<T>& to) {
  if (s.layer(l).kind == Kind::conv)
    s.layer(l).stem ? stem_tangent_gradient(s, d, to) : conv_tangent_gradient(s, d, l, to);
  if (s.layer(l).kind == Kind::batch_norm) image_norm_gradient(image_norm(d, l), s.place(l), to);
}

template <class T>
void transpose_any(const Layer& layer, const LayerPlace<T>& p, const T* packed, T* transposed) {
  if (layer.kind == Kind::linear) transpose_layer(layer, p, packed, transposed);
  if (layer.kind == Kind::conv && p.has_transposed)
    transpose_conv(layer, p, packed + p.weight, transposed + p.transposed);
}

template <class T>
void transpose_parameters(const Network& network, const Shape<T>& shape, const T* packed, T* transposed) {
  const Timed timed("transpose", kNoLayer, 0);
  for (Index l = 0; l < network.depth; ++l) transpose_any(network.layers[l], shape.places[l], packed, transposed);
}

template <class T>
void zero_borders(T* at, const Image& image, Index n) {
  for (Index s = 0; s < n; ++s) zero_border(at + s * image.sample, image);
}

// What `zero(state)` does for networks of images, whose states are too large to be cleared every call; and of the
// samples that a state has room for, only those that it will hold, so that the rest of its memory is never touched.
template <class T>
void prepare_images(const Network& network, const Shape<T>& shape, Index rows, T* state) {
  for (Index l = 1; l < network.depth; ++l) {
    const LayerPlace<T>& p = shape.places[l];
    if (network.layers[l].stem) continue;
    if (network.layers[l].image) {
      zero_borders(state + p.input, p.input_image, rows);
      zero_borders(state + p.delta, p.delta_image, rows);
    } else {
      zero(state + p.input, shape.rows * p.input_width);
      zero(state + p.delta, shape.rows * p.input_width);
    }
  }
  zero(state + shape.output, shape.weight_gradient - shape.output);
}

// [channels, y, x] of one sample, as torch has it, into its place, channels last.
template <class T>
void copy_image(const Layer& layer, const Image& image, const T* from, T* sample) {
  T* to = sample + image.origin;
  for (Index y = 0; y < layer.in_size[0]; ++y)
    for (Index x = 0; x < layer.in_size[1]; ++x)
      for (Index c = 0; c < layer.in; ++c)
        to[y * image.row + x * image.pixel + c] = from[(c * layer.in_size[0] + y) * layer.in_size[1] + x];
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
