// Adjoints of batch norm over images, from the sums that norm_sums.h takes, and their tangents. Derivation:
// docs/convolutions.md.
#pragma once

#include "generic/images/norm.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
void image_norm_gradient(const ImageNorm<T>& b, const LayerPlace<T>& p, const Destination<T>& to) {
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    if (b.layer.weight >= 0) put(to, p.scale + c, load<Wide<T>>(b.row(kMeanDeltaX) + c));
    if (b.layer.bias >= 0) put(to, p.shift + c, load<Wide<T>>(b.row(kMeanDelta) + c));
  }
}

// Calls line(s, y, x, y-bar, y-bar-dot) for every input pixel, with the part of the adjoints that reaches it: those of
// its window if it was chosen there, else zero. Side: of the windows, 0 where it is not known here.
template <int Side, class T, class Line>
inline void reach_line(const ImageNorm<T>& b, const Map<T>& dy, const Map<T>& dy_dot, Index s, Index y, Index c,
                       const Line& line) {
  using V = Wide<T>;
  const Index high = Side ? Side : b.layer.window.kernel[0], wide = Side ? Side : b.layer.window.kernel[1];
  for (Index x = 0; x < b.layer.out_size[1]; ++x) {
    const V g = load<V>(dy(s, y, x) + c), g_dot = load<V>(dy_dot(s, y, x) + c);
    if (!b.layer.pool) {
      line(s, y, x, g, g_dot);
      continue;
    }
    const V choice = load<V>(b.chosen_by(s, y * b.layer.out_size[1] + x) + c);
    for (Index ky = 0; ky < high; ++ky)
      for (Index kx = 0; kx < wide; ++kx) {
        const auto here = choice == splat<V>(static_cast<T>(ky * wide + kx));
        line(s, y * high + ky, x * wide + kx, here ? g : V{}, here ? g_dot : V{});
      }
  }
}

// The pixels of a row that no window reaches.
template <class T, class Line>
inline void unreached_line(const ImageNorm<T>& b, Index s, Index y, const Line& line) {
  const bool reached = y < b.layer.out_size[0] * b.layer.window.kernel[0];
  for (Index x = reached ? b.layer.out_size[1] * b.layer.window.kernel[1] : 0; x < b.layer.in_size[1]; ++x)
    line(s, y, x, Wide<T>{}, Wide<T>{});
}

// make_line(c) prepares the constants of a vector of channels.
template <class T, class MakeLine>
void for_reached(const ImageNorm<T>& b, const Map<T>& dy, const Map<T>& dy_dot, MakeLine make_line) {
  const bool twos = b.layer.window.kernel[0] == 2 && b.layer.window.kernel[1] == 2;
  for (Index s = 0; s < b.n; ++s)
    for (Index c = 0; c < b.width; c += kLanes<T>) {
      const auto line = make_line(c);
      for (Index y = 0; y < b.layer.out_size[0]; ++y) {
        if (twos) reach_line<2>(b, dy, dy_dot, s, y, c, line);
        else reach_line<0>(b, dy, dy_dot, s, y, c, line);
      }
      for (Index y = 0; b.layer.pool && y < b.layer.in_size[0]; ++y) unreached_line(b, s, y, line);
    }
}

// z-bar = rstd (g - mean(g) - x-hat mean(x-hat g)), g = scale y-bar
template <class T>
void image_norm_backward(const Sweep<T>& sweep, Index l) {
  using V = Wide<T>;
  const ImageNorm<T> b = image_norm(sweep, l);
  const T inverse = T(1) / b.count();
  for_reached(b, b.dy, b.dy, [&](Index c) {
    const V mean = load<V>(b.row(kMean) + c), rstd = load<V>(b.row(kRstd) + c);
    const V factor = b.scale ? rstd * load<V>(b.scale + c) : rstd;
    const V mean_g = load<V>(b.row(kMeanDelta) + c) * inverse;
    const V mean_gx = load<V>(b.row(kMeanDeltaX) + c) * inverse * rstd;
    return [=, &b](Index s, Index y, Index x, V dy, V) {
      const V z = load<V>(b.z(s, y, x) + c);
      V dz = factor * (dy - mean_g - (z - mean) * mean_gx);
      if (b.layer.input_relu) dz = gate(dz, z);
      store(b.dz(s, y, x) + c, dz);
    };
  });
}

// The tangent of z-bar:
// (rstd-dot / rstd) z-bar + rstd (g-dot - mean(g-dot) - x-dot mean(x g) - x mean(x-dot g + x g-dot))
template <class T>
void image_norm_tangent_backward(const Sweep<T>& sweep, const Sweep<T>& direction, Index l) {
  using V = Wide<T>;
  const ImageNorm<T> b = image_norm(sweep, l), t = image_norm(direction, l);
  const T inverse = T(1) / b.count();
  for_reached(b, b.dy, t.dy, [&](Index c) {
    const V mean = load<V>(b.row(kMean) + c), rstd = load<V>(b.row(kRstd) + c);
    const V mean_dot = load<V>(t.row(kMean) + c), mean_x = load<V>(t.row(kMeanX) + c);
    const V scale = b.scale ? load<V>(b.scale + c) : splat<V>(T(1));
    const V scale_dot = t.scale ? load<V>(t.scale + c) : V{};
    const V sum_g = load<V>(b.row(kMeanDelta) + c), sum_gx = load<V>(b.row(kMeanDeltaX) + c);
    const V old_gx = scale * sum_gx * inverse;
    const V mean_g = (scale * load<V>(t.row(kMeanDelta) + c) + scale_dot * sum_g) * inverse;
    const V mean_gx = (scale * load<V>(t.row(kMeanDeltaX) + c) + scale_dot * sum_gx) * inverse;
    const V rstd_ratio = -rstd * mean_x;  // rstd-dot / rstd
    return [=, &b, &t](Index s, Index y, Index x, V dy, V dy_dot) {
      const V z = load<V>(b.z(s, y, x) + c), x_hat = (z - mean) * rstd;
      const V x_dot = rstd * (load<V>(t.z(s, y, x) + c) - mean_dot - x_hat * mean_x);
      const V g_dot = dy_dot * scale + dy * scale_dot;
      V dz = rstd * (g_dot - mean_g - x_dot * old_gx - x_hat * mean_gx) + rstd_ratio * load<V>(b.dz(s, y, x) + c);
      if (b.layer.input_relu) dz = gate(dz, z);
      store(t.dz(s, y, x) + c, dz);
    };
  });
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
