// The sums over outputs that a batch norm's adjoint needs: of y-bar and of y-bar x-hat, and of y-bar-dot and of
// y-bar-dot x-hat; the tangent pass has taken that of y-bar x-hat-dot. A convolution behind the norm takes them while
// it makes its adjoints, with the values still in the first cache; else they are a pass of their own.
#pragma once

#include "generic/images/conv.h"
#include "generic/images/norm.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Outputs, their adjoints, and the inputs they were made of, from one pixel on; Places has how far the others are:
// `by`, `c` and `a`.
template <class T>
struct Outputs {
  const T *y, *dy, *chosen;
};

// Whether the convolution behind the batch norm takes its sums: it sees outputs, but no inputs.
template <class T>
bool sums_on_the_way(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const bool before_conv = l + 1 < s.depth() && s.layer(l + 1).kind == Kind::conv;
  return before_conv && layer.image && layer.kind == Kind::batch_norm && image_norm(s, l).plain;
}

template <class T>
void finish_sums(const ImageNorm<T>& b, const double* more = nullptr) {
  for (Index c = 0; c < b.width; ++c) {
    b.row(kMeanDelta)[c] = static_cast<T>(b.sum(0)[c]);
    b.row(kMeanDeltaX)[c] = static_cast<T>(b.sum(1)[c] + (more ? more[c] : 0));
  }
}

// Adds those of some outputs, one panel of channels, to the sums in `to`.
template <class T>
void add_panel_sums(const ImageNorm<T>& b, const Outputs<T>& from, const Places& at, Index count, Index panel,
                    const ImageNorm<T>& to) {
  using V = Wide<T>;
  const T* values = b.plain ? from.y : from.chosen;
  const Index* places = b.plain ? at.by : at.a;
  Vectors<T> less, factor, first, second;
  for_vectors([&](int v) {
    const Normalised<T> x(b, panel + v * kLanes<T>);
    less.of[v] = x.less;
    factor.of[v] = x.factor;
  });
  for (Index p = 0; p < count; ++p)
    for_vectors([&](int v) {
      const V dy = load<V>(from.dy + at.c[p] + panel + v * kLanes<T>);
      first.of[v] += dy;
      second.of[v] += dy * ((load<V>(values + places[p] + panel + v * kLanes<T>) - less.of[v]) * factor.of[v]);
    });
  first.add_to(to.sum(0) + panel);
  second.add_to(to.sum(1) + panel);
}

template <class T>
void add_sums(const ImageNorm<T>& b, const Outputs<T>& from, const Places& at, Index count, const ImageNorm<T>& to) {
  for (Index panel = 0; panel < b.width; panel += kPanel<T>) add_panel_sums(b, from, at, count, panel, to);
}

// ---- as a pass of their own ----

// Of all outputs, a block of them at a time; dy: their adjoints or those's tangents.
template <class T>
void add_all_sums(const ImageNorm<T>& b, const Map<T>& dy, const ImageNorm<T>& to) {
  constexpr Index one[2] = {1, 1};
  const Grid grid{{b.layer.out_size[0], b.layer.out_size[1]}};
  const Index total = b.n * grid.pixels();
  const bool kept = b.layer.pool || b.layer.stem;
  const Steps chosen = kept ? Steps{b.width * grid.pixels(), b.width * grid.size[1], b.width} : steps(b.z, one);
  Places at;
  for (Index first = 0; first < total; first += kPixelBlock) {
    const Index count = total - first < kPixelBlock ? total - first : kPixelBlock;
    places(grid, steps(b.y, one), first, count, at.by);
    places(grid, steps(dy, one), first, count, at.c);
    places(grid, chosen, first, count, at.a);
    add_sums(b, {b.y.at, dy.at, kept ? b.selected : b.z.at}, at, count, to);
  }
}

template <class T>
void image_norm_sums(const Sweep<T>& s, Index l) {
  if (sums_on_the_way(s, l)) return;
  const Timed timed("sums", l, s.n);
  const ImageNorm<T> b = image_norm(s, l);
  zero_sums(b, 0, 2);
  add_all_sums(b, b.dy, b);
  finish_sums(b);
}

template <class T>
void image_norm_tangent_sums(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  if (sums_on_the_way(s, l)) return;
  const Timed timed("tangent sums", l, s.n);
  const ImageNorm<T> b = image_norm(s, l), t = image_norm(d, l);
  zero_sums(t, 0, 2);
  add_all_sums(b, t.dy, t);
  finish_sums(t, t.sum(2));
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
