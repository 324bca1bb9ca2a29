// Batch norm over all pixels of a task's images, with the ReLU and the max-pooling after it in the same pass; tangents
// are in norm_tangent.h, adjoints in norm_sums.h and norm_adjoint.h.
// x-hat is never kept: it is (z - mean) rstd, or (y - shift) / scale. Derivation: docs/convolutions.md.
#pragma once

#include "generic/layers/batch_norm.h"
#include "machine/profile.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr double kMost = 2;  // scales from 1 / kMost to kMost and shifts up to kMost leave y the digits of x-hat
constexpr Index kSpan = 16;  // pixels summed in the working precision before they are added in double

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

// A span's own mean and squared deviations join the totals (Chan, Golub, LeVeque 1979). share: of the span in all
// pixels so far.
template <class T>
inline void join(Wide<T> mean, Wide<T> squares, double share, double before, double* means, double* total_squares) {
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
    const double share = static_cast<double>(count) / (before + static_cast<double>(count));
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
        join<T>(mean.of[v], squares.of[v], share, before, b.sum(0) + c, b.sum(1) + c);
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

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
