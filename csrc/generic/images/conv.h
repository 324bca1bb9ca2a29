// Convolutions: z = sum over taps of x[shifted] W[tap] + b (ReLU fused), and its tangent; adjoints: conv_adjoint.h.
// docs/convolutions.md has the derivation and the layouts.
#pragma once

#include "generic/layers/sweep.h"
#include "generic/tiles/conv_kernel.h"

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

struct Nothing {
  void operator()(const Places&, Index) const {}
};

// C = sum over the product's runs, on every pixel of the grid of n samples; made(places, count) after some of them.
template <class T, class Made = Nothing>
void convolve(Product<T>& product, Index panel, Index panels, Index n, const Grid& grid, const Steps& a, const Steps& c,
              const Steps& by, const ConvOutput<T>& out, const Made& made = {}) {
  const Index rows = n * grid.pixels();
  Places at;
  for (Index first = 0; first < rows; first += kPixelBlock) {
    const Index count = rows - first < kPixelBlock ? rows - first : kPixelBlock;
    places(grid, a, first, count, at.a);
    places(grid, c, first, count, at.c);
    if (out.by) places(grid, by, first, count, at.by);
    pixel_block(product.runs, product.count, panel, panels, out, at, count);
    made(at, count);
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

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
