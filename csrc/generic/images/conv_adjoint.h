// The adjoint of a convolution's input: the convolution of the output's adjoint with the transposed weights, and its
// tangent. docs/convolutions.md has the derivation and the layouts.
#pragma once

#include "generic/images/norm_sums.h"
#include "generic/tiles/transpose.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// W [panel of out][tap][in][out of panel] -> [panel of in][tap, flipped][out][in of panel]
template <class T>
void transpose_conv(const Layer& layer, const LayerPlace<T>& p, const T* weight, T* to) {
  constexpr Index width = kPanel<T>;
  const Index taps = layer.window.kernel[0] * layer.window.kernel[1];
  if (layer.in % width) zero(to, taps * layer.out * padded<T>(layer.in));
  for (Index in = 0; in < layer.in; in += width)
    for (Index out = 0; out < layer.out; out += width)
      for (Index tap = 0; tap < taps; ++tap)
        transpose(weight + out * p.packed_rows + (tap * layer.in + in) * width,
                  layer.in - in < width ? layer.in - in : width, width,
                  to + in * taps * layer.out + ((taps - 1 - tap) * layer.out + out) * width,
                  layer.out - out < width ? layer.out - out : width, width);
}

// Input pixels i with the same (i + pad) mod stride meet the same taps: a phase, `first`, first + stride, ...
struct Phase {
  Index first[2], tap[2];  // the phase's first pixel, and the first of its taps in each direction
  Grid grid;
};

inline Phase phase_of(const Layer& layer, Index y, Index x) {
  Phase phase;
  const Index first[2] = {y, x};
  for (int axis = 0; axis < 2; ++axis) {
    const Index stride = layer.window.stride[axis];
    phase.first[axis] = first[axis];
    phase.tap[axis] = (first[axis] + layer.window.pad[axis]) % stride;
    phase.grid.size[axis] = (layer.in_size[axis] - first[axis] + stride - 1) / stride;
  }
  return phase;
}

// delta W^T over the taps of a phase; at stride 1 a row of flipped taps is one run where pixels have no padding.
template <class T>
void add_backward(const Layer& layer, const Phase& phase, const Map<T>& delta, const T* transposed,
                  Product<T>& product) {
  const Window& w = layer.window;
  const bool merged = w.stride[1] == 1 && delta.pixel == layer.out;
  const Index taps = w.kernel[0] * w.kernel[1];
  for (Index ky = phase.tap[0]; ky < w.kernel[0]; ky += w.stride[0])
    for (Index kx = merged ? w.kernel[1] - 1 : phase.tap[1]; kx < w.kernel[1]; kx += w.stride[1]) {
      const Index y = (phase.first[0] + w.pad[0] - ky) / w.stride[0];
      const Index x = (phase.first[1] + w.pad[1] - kx) / w.stride[1];
      product.add(delta(0, y, x), transposed + (taps - 1 - ky * w.kernel[1] - kx) * layer.out * kPanel<T>,
                  layer.out * (merged ? w.kernel[1] : 1));
    }
}

// sum over i of the convolution of deltas[i] with the transposed weights, gated by the ReLU that made the input;
// made(y0, x0, places, count) after some pixels of the phase that begins at (y0, x0)
template <class T, class Made>
void propagate_conv(const Sweep<T>& s, Index l, const Map<T>* deltas, const T* const* transposed, int pairs,
                    const Map<T>& to, const Made& made) {
  const Layer& layer = s.layer(l);
  const Index* stride = layer.window.stride;
  const Map<T> x = s.input_map(l);
  const Index panel = layer.window.kernel[0] * layer.window.kernel[1] * layer.out * kPanel<T>;
  constexpr Index one[2] = {1, 1};
  for (Index y0 = 0; y0 < stride[0] && y0 < layer.in_size[0]; ++y0)
    for (Index x0 = 0; x0 < stride[1] && x0 < layer.in_size[1]; ++x0) {
      const Phase phase = phase_of(layer, y0, x0);
      Product<T> product;
      for (int i = 0; i < pairs; ++i)
        add_backward(layer, phase, deltas[i], transposed[i] + s.place(l).transposed, product);
      ConvOutput<T> out{to(0, y0, x0)};
      out.by = x(0, y0, x0);
      if (layer.input_relu) out.finish = Finish::gate;
      convolve(product, panel, padded<T>(layer.in) / kPanel<T>, s.n, phase.grid, steps(deltas[0], one),
               steps(to, stride), steps(x, stride), out,
               [&](const Places& at, Index count) { made(y0, x0, at, count); });
    }
}

// The same, with the sums of the batch norm that made the input taken on the way, where that can be; to: s, or the
// direction, whose adjoints are made and whose sums they are.
template <class T>
void propagate_with_sums(const Sweep<T>& s, Index l, const Map<T>* deltas, const T* const* transposed, int pairs,
                         const Sweep<T>& to, bool tangent) {
  const Map<T> dy = to.delta_map(l);
  if (!sums_on_the_way(s, l - 1))
    return propagate_conv(s, l, deltas, transposed, pairs, dy, [](Index, Index, const Places&, Index) {});
  const ImageNorm<T> b = image_norm(s, l - 1), sums = image_norm(to, l - 1);
  zero_sums(sums, 0, 2);
  propagate_conv(s, l, deltas, transposed, pairs, dy, [&](Index y, Index x, const Places& at, Index count) {
    add_sums(b, {b.y(0, y, x), dy(0, y, x), nullptr}, at, count, sums);
  });
  finish_sums(sums, tangent ? sums.sum(2) : nullptr);
}

template <class T>
void conv_backward(const Sweep<T>& s, Index l) {
  const Map<T> deltas[] = {s.output_delta_map(l)};
  propagate_with_sums(s, l, deltas, &s.transposed, 1, s, false);
}

template <class T>
void conv_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Map<T> deltas[] = {s.output_delta_map(l), d.output_delta_map(l)};
  const T* transposed[] = {d.transposed, s.transposed};
  propagate_with_sums(s, l, deltas, transposed, 2, d, true);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
