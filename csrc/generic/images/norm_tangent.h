// The tangent of batch norm over images, ReLU and max-pooling included. Derivation: docs/convolutions.md.
#pragma once

#include "generic/images/norm.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// mean(z-dot) and mean(x-hat z-dot); zero where the data, which do not move, come first
template <class T>
void image_tangent_statistics(const ImageNorm<T>& b, const ImageNorm<T>& t) {
  using V = Wide<T>;
  zero_sums(t, 0, 2);
  if (t.z.at)
    for_spans(b.n, b.pixels, [&](Index s0, Index s1, Index p0, Index p1) {
      for (Index panel = 0; panel < b.width; panel += kPanel<T>) {
        Vectors<T> mean, rstd, first, second;
        mean.take(b.row(kMean) + panel);
        rstd.take(b.row(kRstd) + panel);
        for (Index s = s0; s < s1; ++s)
          for (Index p = p0; p < p1; ++p) {
            const T* z = b.z.at + s * b.z.sample + p * b.z.pixel + panel;
            const T* dot = t.z.at + s * t.z.sample + p * t.z.pixel + panel;
            for_vectors([&](int v) {
              const V z_dot = load<V>(dot + v * kLanes<T>);
              first.of[v] += z_dot;
              second.of[v] += z_dot * ((load<V>(z + v * kLanes<T>) - mean.of[v]) * rstd.of[v]);
            });
          }
        first.add_to(t.sum(0) + panel);
        second.add_to(t.sum(1) + panel);
      }
    });
  for (Index c = 0; c < t.width; ++c) {
    t.row(kMean)[c] = static_cast<T>(t.sum(0)[c] / static_cast<double>(b.n * b.pixels));
    t.row(kMeanX)[c] = static_cast<T>(t.sum(1)[c] / static_cast<double>(b.n * b.pixels));
  }
}

// The tangent of the input that max-pooling has chosen, of window x in the line of tangents at `line`.
template <class T>
inline Wide<T> chosen_tangent(const ImageNorm<T>& b, const ImageNorm<T>& t, const T* line, Index s, Index p, Index x,
                              Index c) {
  using V = Wide<T>;
  if (!line) return V{};
  if (!b.layer.pool) return load<V>(line + x * t.z.pixel + c);
  const Window& w = b.layer.window;
  const V choice = load<V>(b.chosen_by(s, p) + c);
  V chosen{};
  const T* window = line + x * w.stride[1] * t.z.pixel + c;
  T number = 0;
  for (Index ky = 0; ky < w.kernel[0]; ++ky)
    for (Index kx = 0; kx < w.kernel[1]; ++kx, number += T(1))
      chosen = choice == splat<V>(number) ? load<V>(window + ky * t.z.row + kx * t.z.pixel) : chosen;
  return chosen;
}

// As norm_line, of the tangents; no line: they are zero. The sum of y-bar x-hat-dot is taken on the way.
template <class T>
void norm_tangent_line(const ImageNorm<T>& b, const ImageNorm<T>& t, const T* line, Index s, Index y) {
  using V = Wide<T>;
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    const Normalised<T> normalised(b, c);
    const V rstd = load<V>(b.row(kRstd) + c);
    const V mean_dot = load<V>(t.row(kMean) + c), mean_x = load<V>(t.row(kMeanX) + c);
    const V scale = b.scale ? load<V>(b.scale + c) : splat<V>(T(1));
    const V scale_dot = t.scale ? load<V>(t.scale + c) : V{};
    const V shift_dot = t.shift ? load<V>(t.shift + c) : V{};
    V moved{};
    for (Index x = 0; x < b.layer.out_size[1]; ++x) {
      const Index p = y * b.layer.out_size[1] + x;
      const V z_dot = chosen_tangent(b, t, line, s, p, x, c);
      const V x_hat = normalised.of(load<V>((b.plain ? b.y(s, y, x) : b.chosen(s, p)) + c));
      const V x_dot = rstd * (z_dot - mean_dot - x_hat * mean_x);
      const V y_dot = x_dot * scale + x_hat * scale_dot + shift_dot;
      store(t.y(s, y, x) + c, b.layer.relu ? gate(y_dot, load<V>(b.y(s, y, x) + c)) : y_dot);
      moved += load<V>(b.dy(s, y, x) + c) * x_dot;
    }
    add_lanes<T>(moved, t.sum(2) + c);
  }
}

template <class T>
void image_norm_tangent_forward(const Sweep<T>& sweep, const Sweep<T>& direction, Index l) {
  const ImageNorm<T> b = image_norm(sweep, l), t = image_norm(direction, l);
  zero_sums(t, 2, 3);
  image_tangent_statistics(b, t);
  for (Index s = 0; s < b.n; ++s)
    for (Index y = 0; y < b.layer.out_size[0]; ++y)
      norm_tangent_line(b, t, t.z.at ? t.z(s, y * line_step(b), 0) : nullptr, s, y);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
