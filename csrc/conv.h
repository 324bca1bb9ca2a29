// Convolutions: z = sum over taps of x[shifted] W[tap] + b (ReLU fused), its adjoints, and the tangents of both.
// docs/convolutions.md has the derivation and the layouts.
#pragma once

#include "conv_kernel.h"
#include "sweep.h"
#include "transpose.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// A grid of pixels in every sample: `size` of them, `step` elements from one to the next.
struct Grid {
  Index size[2];
  Index pixels() const { return size[0] * size[1]; }
};

struct Steps {
  Index sample, row, pixel;
};

template <class T>
inline Steps steps(const Map<T>& map, const Index* stride) {
  return {map.sample, stride[0] * map.row, stride[1] * map.pixel};
}

// Places of the grid's pixels first ... first + count - 1, all samples counted through.
inline void places(const Grid& grid, const Steps& by, Index first, Index count, Index* to) {
  const Index n = first / grid.pixels(), within = first % grid.pixels();
  Index y = within / grid.size[1], x = within % grid.size[1];
  Index at = n * by.sample + y * by.row + x * by.pixel;
  for (Index i = 0; i < count; ++i) {
    to[i] = at;
    at += by.pixel;
    if (++x < grid.size[1]) continue;
    x = 0;
    at += by.row - grid.size[1] * by.pixel;
    if (++y < grid.size[0]) continue;
    y = 0;
    at += by.sample - grid.size[0] * by.row;
  }
}

template <class T>
struct Product {
  Run<T> runs[2 * kMaxTaps];
  int count = 0;
  void add(const T* a, const T* b, Index depth) { runs[count++] = {a, b, depth}; }
};

// C = sum over the product's runs, on every pixel of the grid of n samples.
template <class T>
void convolve(Product<T>& product, Index panel, Index panels, Index n, const Grid& grid, const Steps& a, const Steps& c,
              const Steps& by, const ConvOutput<T>& out) {
  const Index rows = n * grid.pixels();
  Places at;
  for (Index first = 0; first < rows; first += kPixelBlock) {
    const Index count = rows - first < kPixelBlock ? rows - first : kPixelBlock;
    places(grid, a, first, count, at.a);
    places(grid, c, first, count, at.c);
    if (out.by) places(grid, by, first, count, at.by);
    pixel_block(product.runs, product.count, panel, panels, out, at, count);
  }
}

// x W: where a pixel has no padding, one row of taps is one run.
template <class T>
void add_forward(const Layer& layer, const Map<T>& x, const T* weight, Product<T>& product) {
  const Window& w = layer.window;
  const bool merged = x.pixel == layer.in;
  for (Index ky = 0; ky < w.kernel[0]; ++ky)
    for (Index kx = 0; kx < (merged ? 1 : w.kernel[1]); ++kx)
      product.add(x(0, ky - w.pad[0], kx - w.pad[1]), weight + (ky * w.kernel[1] + kx) * layer.in * kPanel<T>,
                  layer.in * (merged ? w.kernel[1] : 1));
}

template <class T>
void conv_products(const Sweep<T>& s, Index l, Product<T>& product, const ConvOutput<T>& out, const Map<T>& to) {
  const Layer& layer = s.layer(l);
  const Grid grid{{layer.out_size[0], layer.out_size[1]}};
  constexpr Index one[2] = {1, 1};
  const Steps c = steps(to, one);
  convolve(product, s.place(l).packed_rows * kPanel<T>, padded<T>(layer.out) / kPanel<T>, s.n, grid,
           steps(s.input_map(l), layer.window.stride), c, c, out);
}

template <class T>
void conv_forward(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const Map<T> to = s.output_map(l);
  Product<T> product;
  add_forward(layer, s.input_map(l), s.theta + s.place(l).weight, product);
  ConvOutput<T> out{to.at};
  if (layer.bias >= 0) out.bias = s.theta + s.place(l).shift;
  if (layer.relu) out.finish = Finish::relu;
  conv_products(s, l, product, out, to);
}

template <class T>
void conv_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const Map<T> to = d.output_map(l);
  Product<T> product;
  add_forward(layer, s.input_map(l), d.theta + s.place(l).weight, product);
  if (l > 0) add_forward(layer, d.input_map(l), s.theta + s.place(l).weight, product);  // the data's tangent is zero
  ConvOutput<T> out{to.at};
  if (layer.bias >= 0) out.bias = d.theta + s.place(l).shift;
  if (layer.relu) {
    out.finish = Finish::gate;
    out.by = s.output_map(l).at;
  }
  conv_products(s, l, product, out, to);
}

// ---- the adjoint of the input ----

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

// sum over i of the convolution of deltas[i] with the transposed weights, gated by the ReLU that made the input
template <class T>
void propagate_conv(const Sweep<T>& s, Index l, const Map<T>* deltas, const T* const* transposed, int pairs,
                    const Map<T>& to) {
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
      if (layer.input_relu) {
        out.finish = Finish::gate;
        out.by = x(0, y0, x0);
      }
      convolve(product, panel, padded<T>(layer.in) / kPanel<T>, s.n, phase.grid, steps(deltas[0], one),
               steps(to, stride), steps(x, stride), out);
    }
}

template <class T>
void conv_backward(const Sweep<T>& s, Index l) {
  const Map<T> deltas[] = {s.output_delta_map(l)};
  propagate_conv(s, l, deltas, &s.transposed, 1, s.delta_map(l));
}

template <class T>
void conv_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Map<T> deltas[] = {s.output_delta_map(l), d.output_delta_map(l)};
  const T* transposed[] = {d.transposed, s.transposed};
  propagate_conv(s, l, deltas, transposed, 2, d.delta_map(l));
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
