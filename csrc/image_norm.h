// Batch norm over all pixels of a task's images, with the ReLU and the max-pooling after it in the same pass.
// x-hat is never kept: it is (z - mean) rstd, or (y - shift) / scale. Derivation: docs/convolutions.md.
#pragma once

#include "batch_norm.h"
#include "profile.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr double kMost = 2;   // scales from 1 / kMost to kMost and shifts up to kMost leave y the digits of x-hat
constexpr Index kSpan = 128;  // pixels summed in the working precision before they are added in double

// Calls f(first sample, last, first pixel, last) for spans of about kSpan pixels.
template <class F>
inline void for_spans(Index n, Index pixels, F f) {
  if (pixels >= kSpan) {
    for (Index s = 0; s < n; ++s)
      for (Index p = 0; p < pixels; p += kSpan) f(s, s + 1, p, p + kSpan < pixels ? p + kSpan : pixels);
    return;
  }
  const Index group = kSpan / pixels;
  for (Index s = 0; s < n; s += group) f(s, s + group < n ? s + group : n, Index(0), pixels);
}

// One batch norm layer of one sweep, on images.
template <class T>
struct ImageNorm {
  const Layer& layer;
  Index n, width, pixels, selected_pixels;  // padded channels; pixels of an input and of an output
  Map<T> z, dz, y, dy;
  T *selected, *choice, *statistics;
  double* sums;
  const T *scale, *shift;
  bool plain;  // x-hat = (y - shift) / scale wherever the ReLU is open: the inputs need not be kept

  T* row(Statistic which) const { return statistics + which * width; }
  double* sum(Index which) const { return sums + which * width; }
  T count() const { return static_cast<T>(n * pixels); }
  // The input that reached output pixel p of sample s, which max-pooling has chosen.
  const T* chosen(Index s, Index p) const {
    return layer.pool || layer.stem ? selected + (s * selected_pixels + p) * width : z.at + s * z.sample + p * z.pixel;
  }
  const T* chosen_by(Index s, Index p) const { return choice + (s * selected_pixels + p) * width; }
};

template <class T>
bool is_plain(const Layer& layer, const T* scale, const T* shift) {
  constexpr T most = T(kMost), least = 1 / most;
  bool plain = true;
  for (Index c = 0; c < layer.out; ++c) {
    if (scale) plain &= scale[c] >= least && scale[c] <= most;
    if (shift) plain &= shift[c] >= -most && shift[c] <= most;
  }
  return plain;
}

template <class T>
ImageNorm<T> image_norm(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  Map<T> z{}, dz{};
  if (layer.stem) z = {s.state + p.lines, 0, layer.in_size[1] * padded<T>(layer.in), padded<T>(layer.in)};
  else if (l > 0 || s.data) z = s.input_map(l);
  if (l > 0 && !layer.stem) dz = s.delta_map(l);
  const T* scale = layer.weight >= 0 ? s.theta + p.scale : nullptr;
  const T* shift = layer.bias >= 0 ? s.theta + p.shift : nullptr;
  return {layer,
          s.n,
          padded<T>(layer.out),
          layer.in_size[0] * layer.in_size[1],
          layer.out_size[0] * layer.out_size[1],
          z,
          dz,
          s.output_map(l),
          s.output_delta_map(l),
          s.state + p.selected,
          s.state + p.choice,
          s.state + p.statistics,
          reinterpret_cast<double*>(s.state + p.sums),
          scale,
          shift,
          is_plain(layer, scale, shift)};
}

template <class T>
inline void zero_sums(const ImageNorm<T>& b, Index first, Index last) {
  for (double* at = b.sum(first); at < b.sum(last); ++at) *at = 0;
}

template <class T>
inline void add_lanes(const Wide<T>& value, double* to) {
  for (int i = 0; i < kLanes<T>; ++i) to[i] += static_cast<double>(value[i]);
}

// The vectors of one panel of channels: several sums at a time hide the latency of one.
template <class F>
inline void for_vectors(F f) {
#pragma GCC unroll 4
  for (int v = 0; v < kPanelVectors; ++v) f(v);
}

template <class T>
struct Vectors {
  Wide<T> of[kPanelVectors] = {};
  void take(const T* from) {
    for_vectors([&](int v) { of[v] = load<Wide<T>>(from + v * kLanes<T>); });
  }
  void add_to(double* to) const {
    for_vectors([&](int v) { add_lanes<T>(of[v], to + v * kLanes<T>); });
  }
};

// A span's own mean and squared deviations join the totals (Chan, Golub, LeVeque 1979).
template <class T>
inline void join(Wide<T> mean, Wide<T> squares, double count, double before, double* means, double* total_squares) {
  const double share = count / (before + count);
  for (int i = 0; i < kLanes<T>; ++i) {
    const double apart = static_cast<double>(mean[i]) - means[i];
    means[i] += apart * share;
    total_squares[i] += static_cast<double>(squares[i]) + apart * apart * before * share;
  }
}

// Padding channels get rstd = 0, so that they stay zero.
template <class T>
void finish_statistics(const ImageNorm<T>& b) {
  for (Index c = 0; c < b.width; ++c) {
    const double variance = b.sum(1)[c] / static_cast<double>(b.n * b.pixels);
    b.row(kMean)[c] = c < b.layer.out ? static_cast<T>(b.sum(0)[c]) : T(0);
    b.row(kRstd)[c] = c < b.layer.out ? static_cast<T>(1 / square_root(variance + b.layer.eps)) : T(0);
  }
}

template <class T>
void image_statistics(const ImageNorm<T>& b) {
  using V = Wide<T>;
  zero_sums(b, 0, 2);
  double before = 0;
  for_spans(b.n, b.pixels, [&](Index s0, Index s1, Index p0, Index p1) {
    const Index count = (s1 - s0) * (p1 - p0);
    const T inverse = T(1) / static_cast<T>(count);
    for (Index panel = 0; panel < b.width; panel += kPanel<T>) {
      Vectors<T> mean, squares;
      const auto each_pixel = [&](auto add) {
        for (Index s = s0; s < s1; ++s)
          for (Index p = p0; p < p1; ++p) {
            const T* z = b.z.at + s * b.z.sample + p * b.z.pixel + panel;
            for_vectors([&](int v) { add(v, load<V>(z + v * kLanes<T>)); });
          }
      };
      each_pixel([&](int v, V z) { mean.of[v] += z; });
      for_vectors([&](int v) { mean.of[v] *= inverse; });
      each_pixel([&](int v, V z) { squares.of[v] += (z - mean.of[v]) * (z - mean.of[v]); });
      for_vectors([&](int v) {
        const Index c = panel + v * kLanes<T>;
        join<T>(mean.of[v], squares.of[v], static_cast<double>(count), before, b.sum(0) + c, b.sum(1) + c);
      });
    }
    before += static_cast<double>(count);
  });
  finish_statistics(b);
}

// y = (z - mean) rstd scale + shift
template <class T>
struct Affine {
  Wide<T> mean, factor, shift;
  Affine(const ImageNorm<T>& b, Index c)
      : mean(load<Wide<T>>(b.row(kMean) + c)),
        factor(load<Wide<T>>(b.row(kRstd) + c)),
        shift(b.shift ? load<Wide<T>>(b.shift + c) : Wide<T>{}) {
    if (b.scale) factor *= load<Wide<T>>(b.scale + c);
  }
  Wide<T> operator()(Wide<T> z) const { return (z - mean) * factor + shift; }
};

template <class T>
Wide<T> inverse_scale(const ImageNorm<T>& b, Index c) {
  const Wide<T> one = splat<Wide<T>>(T(1));
  if (!b.scale) return one;
  const Wide<T> scale = load<Wide<T>>(b.scale + c);
  return one / (scale == Wide<T>{} ? one : scale);  // zero: padding
}

// x-hat of a vector of channels, from the output or from the input that it was made of; where a ReLU is closed, any
// number, which the ReLU's mask then takes away.
template <class T>
struct Normalised {
  Wide<T> less, factor;
  Normalised(const ImageNorm<T>& b, Index c)
      : less(load<Wide<T>>(b.row(kMean) + c)), factor(load<Wide<T>>(b.row(kRstd) + c)) {
    if (!b.plain) return;
    less = b.shift ? load<Wide<T>>(b.shift + c) : Wide<T>{};
    factor = inverse_scale(b, c);
  }
  Wide<T> of(Wide<T> value) const { return (value - less) * factor; }
};

// The first largest of a window, and the input it was made of; NaN counts as largest, as in torch.
template <int Side, class T>
inline Wide<T> largest(const ImageNorm<T>& b, const Affine<T>& affine, const T* window, Wide<T>& input,
                       Wide<T>& index) {
  using V = Wide<T>;
  const Index high = Side ? Side : b.layer.window.kernel[0], wide = Side ? Side : b.layer.window.kernel[1];
  input = load<V>(window);
  index = V{};
  V best = affine(input);
  for (Index y = 0; y < high; ++y)
    for (Index x = y == 0; x < wide; ++x) {
      const V z = load<V>(window + y * b.z.row + x * b.z.pixel), value = affine(z);
      const auto kept = (best >= value) | (best != best);
      best = kept ? best : value;
      input = kept ? input : z;
      index = kept ? index : splat<V>(static_cast<T>(y * wide + x));
    }
  return best;
}

template <int Side, class T>
void pooled_line(const ImageNorm<T>& b, const Affine<T>& affine, const T* z, Index s, Index y, Index c) {
  using V = Wide<T>;
  for (Index x = 0; x < b.layer.out_size[1]; ++x) {
    V input, index;
    const V best = largest<Side>(b, affine, z + x * b.layer.window.stride[1] * b.z.pixel + c, input, index);
    const Index at = ((s * b.layer.out_size[0] + y) * b.layer.out_size[1] + x) * b.width + c;
    if (!b.plain) store(b.selected + at, input);
    store(b.choice + at, index);
    store(b.y(s, y, x) + c, b.layer.relu ? relu(best) : best);
  }
}

template <class T>
void plain_line(const ImageNorm<T>& b, const Affine<T>& affine, const T* z, Index s, Index y, Index c) {
  using V = Wide<T>;
  for (Index x = 0; x < b.layer.out_size[1]; ++x) {
    const V input = load<V>(z + x * b.z.pixel + c), value = affine(input);
    if (b.layer.stem && !b.plain)
      store(b.selected + (s * b.selected_pixels + y * b.layer.out_size[1] + x) * b.width + c, input);
    store(b.y(s, y, x) + c, b.layer.relu ? relu(value) : value);
  }
}

// Line y of sample s of the outputs, made of the lines of inputs that start at z.
template <class T>
void norm_line(const ImageNorm<T>& b, const T* z, Index s, Index y) {
  const bool twos = b.layer.window.kernel[0] == 2 && b.layer.window.kernel[1] == 2;
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    const Affine<T> affine(b, c);
    if (!b.layer.pool) plain_line(b, affine, z, s, y, c);
    else if (twos) pooled_line<2>(b, affine, z, s, y, c);
    else pooled_line<0>(b, affine, z, s, y, c);
  }
}

// Lines of inputs that a line of outputs moves on by.
template <class T>
Index line_step(const ImageNorm<T>& b) {
  return b.layer.pool ? b.layer.window.stride[0] : 1;
}

template <class T>
void image_norm_forward(const Sweep<T>& sweep, Index l) {
  const ImageNorm<T> b = image_norm(sweep, l);
  image_statistics(b);
  for (Index s = 0; s < b.n; ++s)
    for (Index y = 0; y < b.layer.out_size[0]; ++y) norm_line(b, b.z(s, y * line_step(b), 0), s, y);
}

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
