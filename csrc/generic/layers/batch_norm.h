// Batch norm with the statistics of the batch at hand. Derivation: docs/mathematics.md.
#pragma once

#include "generic/layers/sweep.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct BatchNormRows {
  const T *scale, *shift;      // packed parameters, null where absent
  T *x, *x_delta;              // input and its adjoint   [n, x_row]
  T *y, *y_delta;              // output and its adjoint  [n, y_row]
  T *normalised, *statistics;  // x-hat [n, width]; [kNumStatistics, width]
  Index x_row, y_row, width;
};

template <class T>
BatchNormRows<T> batch_norm_rows(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  return {layer.weight >= 0 ? s.theta + p.scale : nullptr,
          layer.bias >= 0 ? s.theta + p.shift : nullptr,
          s.input(l),
          s.delta(l),
          s.output(l),
          s.output_delta(l),
          s.state + p.normalised,
          s.state + p.statistics,
          p.input_width,
          p.output_width,
          padded<T>(layer.out)};
}

template <class T>
T square_root(T value) {
  if constexpr (sizeof(T) == 4) return __builtin_sqrtf(value);
  else return __builtin_sqrt(value);
}

template <class T>
void batch_norm_forward(const Sweep<T>& s, Index l) {
  using V = Wide<T>;
  const BatchNormRows<T> b = batch_norm_rows(s, l);
  const Layer& layer = s.layer(l);
  const T inverse = T(1) / static_cast<T>(s.n);
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    V mean{}, variance{};
    for (Index r = 0; r < s.n; ++r) mean += load<V>(b.x + r * b.x_row + c);
    mean *= inverse;
    for (Index r = 0; r < s.n; ++r) {
      const V centred = load<V>(b.x + r * b.x_row + c) - mean;
      variance += centred * centred;
    }
    V rstd;
    for (int i = 0; i < kLanes<T>; ++i) rstd[i] = T(1) / square_root(variance[i] * inverse + static_cast<T>(layer.eps));
    store(b.statistics + kRstd * b.width + c, rstd);
    const V scale = b.scale ? load<V>(b.scale + c) : splat<V>(T(1));
    const V shift = b.shift ? load<V>(b.shift + c) : V{};
    for (Index r = 0; r < s.n; ++r) {
      const V normalised = (load<V>(b.x + r * b.x_row + c) - mean) * rstd;
      store(b.normalised + r * b.width + c, normalised);
      const V y = normalised * scale + shift;
      store(b.y + r * b.y_row + c, layer.relu ? relu(y) : y);
    }
  }
}

// x_delta = rstd (g - mean(g) - x-hat mean(g x-hat)), g = y_delta scale
template <class T>
void batch_norm_backward(const Sweep<T>& s, Index l) {
  using V = Wide<T>;
  const BatchNormRows<T> b = batch_norm_rows(s, l);
  const bool input_relu = s.layer(l).input_relu;
  const T inverse = T(1) / static_cast<T>(s.n);
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    const V scale = b.scale ? load<V>(b.scale + c) : splat<V>(T(1));
    V mean_g{}, mean_gx{};
    for (Index r = 0; r < s.n; ++r) {
      const V g = load<V>(b.y_delta + r * b.y_row + c) * scale;
      mean_g += g;
      mean_gx += g * load<V>(b.normalised + r * b.width + c);
    }
    mean_g *= inverse;
    mean_gx *= inverse;
    store(b.statistics + kMeanDelta * b.width + c, mean_g);
    store(b.statistics + kMeanDeltaX * b.width + c, mean_gx);
    const V rstd = load<V>(b.statistics + kRstd * b.width + c);
    for (Index r = 0; r < s.n; ++r) {
      const V g = load<V>(b.y_delta + r * b.y_row + c) * scale;
      V dx = rstd * (g - mean_g - load<V>(b.normalised + r * b.width + c) * mean_gx);
      if (input_relu) dx = gate(dx, load<V>(b.x + r * b.x_row + c));
      store(b.x_delta + r * b.x_row + c, dx);
    }
  }
}

template <class T>
void batch_norm_gradient(const Sweep<T>& s, Index l, const Destination<T>& to) {
  using V = Wide<T>;
  const BatchNormRows<T> b = batch_norm_rows(s, l);
  const LayerPlace<T>& p = s.place(l);
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    V scale{}, shift{};
    for (Index r = 0; r < s.n; ++r) {
      const V dy = load<V>(b.y_delta + r * b.y_row + c);
      shift += dy;
      scale += dy * load<V>(b.normalised + r * b.width + c);
    }
    if (b.scale) put(to, p.scale + c, scale);
    if (b.shift) put(to, p.shift + c, shift);
  }
}

template <class T>
void batch_norm_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  using V = Wide<T>;
  const BatchNormRows<T> b = batch_norm_rows(s, l), t = batch_norm_rows(d, l);
  const Layer& layer = s.layer(l);
  const T inverse = T(1) / static_cast<T>(s.n);
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    V mean{}, mean_x{};
    for (Index r = 0; r < s.n; ++r) {
      const V dx = l == 0 ? V{} : load<V>(t.x + r * t.x_row + c);
      mean += dx;
      mean_x += dx * load<V>(b.normalised + r * b.width + c);
    }
    mean *= inverse;
    mean_x *= inverse;
    const V rstd = load<V>(b.statistics + kRstd * b.width + c);
    store(b.statistics + kRstdTangent * b.width + c, -rstd * rstd * mean_x);
    const V scale = b.scale ? load<V>(b.scale + c) : splat<V>(T(1));
    const V scale_dot = t.scale ? load<V>(t.scale + c) : V{};
    const V shift_dot = t.shift ? load<V>(t.shift + c) : V{};
    for (Index r = 0; r < s.n; ++r) {
      const V x = load<V>(b.normalised + r * b.width + c);
      const V dx = l == 0 ? V{} : load<V>(t.x + r * t.x_row + c);
      const V x_dot = rstd * (dx - mean - x * mean_x);
      store(t.normalised + r * t.width + c, x_dot);
      const V y_dot = x_dot * scale + x * scale_dot + shift_dot;
      store(t.y + r * t.y_row + c, layer.relu ? gate(y_dot, load<V>(b.y + r * b.y_row + c)) : y_dot);
    }
  }
}

template <class T>
void batch_norm_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  using V = Wide<T>;
  const BatchNormRows<T> b = batch_norm_rows(s, l), t = batch_norm_rows(d, l);
  const bool input_relu = s.layer(l).input_relu;
  const T inverse = T(1) / static_cast<T>(s.n);
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    const V scale = b.scale ? load<V>(b.scale + c) : splat<V>(T(1));
    const V scale_dot = t.scale ? load<V>(t.scale + c) : V{};
    V mean_g{}, mean_gx{};  // tangents of mean(g) and mean(g x-hat)
    for (Index r = 0; r < s.n; ++r) {
      const V dy = load<V>(b.y_delta + r * b.y_row + c);
      const V g_dot = load<V>(t.y_delta + r * t.y_row + c) * scale + dy * scale_dot;
      mean_g += g_dot;
      mean_gx += g_dot * load<V>(b.normalised + r * b.width + c) + dy * scale * load<V>(t.normalised + r * t.width + c);
    }
    mean_g *= inverse;
    mean_gx *= inverse;
    const V rstd = load<V>(b.statistics + kRstd * b.width + c);
    const V rstd_dot = load<V>(b.statistics + kRstdTangent * b.width + c);
    const V old_g = load<V>(b.statistics + kMeanDelta * b.width + c);
    const V old_gx = load<V>(b.statistics + kMeanDeltaX * b.width + c);
    for (Index r = 0; r < s.n; ++r) {
      const V x = load<V>(b.normalised + r * b.width + c), x_dot = load<V>(t.normalised + r * t.width + c);
      const V dy = load<V>(b.y_delta + r * b.y_row + c);
      const V g_dot = load<V>(t.y_delta + r * t.y_row + c) * scale + dy * scale_dot;
      V dx = rstd * (g_dot - mean_g - x_dot * old_gx - x * mean_gx) + rstd_dot * (dy * scale - old_g - x * old_gx);
      if (input_relu) dx = gate(dx, load<V>(b.x + r * b.x_row + c));
      store(t.x_delta + r * t.x_row + c, dx);
    }
  }
}

template <class T>
void batch_norm_tangent_gradient(const Sweep<T>& s, const Sweep<T>& d, Index l, const Destination<T>& to) {
  using V = Wide<T>;
  const BatchNormRows<T> b = batch_norm_rows(s, l), t = batch_norm_rows(d, l);
  const LayerPlace<T>& p = s.place(l);
  for (Index c = 0; c < b.width; c += kLanes<T>) {
    V scale{}, shift{};
    for (Index r = 0; r < s.n; ++r) {
      const V dy = load<V>(b.y_delta + r * b.y_row + c), dy_dot = load<V>(t.y_delta + r * t.y_row + c);
      shift += dy_dot;
      scale += dy_dot * load<V>(b.normalised + r * b.width + c) + dy * load<V>(t.normalised + r * t.width + c);
    }
    if (b.scale) put(to, p.scale + c, scale);
    if (b.shift) put(to, p.shift + c, shift);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
