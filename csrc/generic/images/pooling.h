// Max-pooling that stands alone, the mean over an image's pixels, and tanh and ReLU on images.
#pragma once

#include "generic/layers/activation.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Calls f(sample, y, x, channel) for every vector of an image's pixels.
template <class T, class F>
inline void for_pixels(Index n, const Index* size, Index channels, F f) {
  for (Index s = 0; s < n; ++s)
    for (Index y = 0; y < size[0]; ++y)
      for (Index x = 0; x < size[1]; ++x)
        for (Index c = 0; c < padded<T>(channels); c += kLanes<T>) f(s, y, x, c);
}

// Calls f(y, x, number) for the pixels of a window that lie inside the image.
template <class F>
inline void for_window(const Layer& layer, Index y, Index x, F f) {
  const Window& w = layer.window;
  const Index y0 = y * w.stride[0] - w.pad[0], x0 = x * w.stride[1] - w.pad[1];
  for (Index ky = 0; ky < w.kernel[0]; ++ky)
    for (Index kx = 0; kx < w.kernel[1]; ++kx)
      if (y0 + ky >= 0 && y0 + ky < layer.in_size[0] && x0 + kx >= 0 && x0 + kx < layer.in_size[1])
        f(y0 + ky, x0 + kx, ky * w.kernel[1] + kx);
}

template <class T>
T* choice_at(const Sweep<T>& s, Index l, Index n, Index y, Index x) {
  const Layer& layer = s.layer(l);
  return s.state + s.place(l).choice + ((n * layer.out_size[0] + y) * layer.out_size[1] + x) * padded<T>(layer.out);
}

template <class T>
void max_pool_forward(const Sweep<T>& s, Index l) {
  using V = Wide<T>;
  const Layer& layer = s.layer(l);
  const Map<T> from = s.input_map(l), to = s.output_map(l);
  for_pixels<T>(s.n, layer.out_size, layer.out, [&](Index n, Index y, Index x, Index c) {
    V best{}, choice = splat<V>(T(-1));  // no pixel yet
    for_window(layer, y, x, [&](Index iy, Index ix, Index number) {
      const V value = load<V>(from(n, iy, ix) + c);
      const auto better = (choice < V{}) | (value > best) | ((value != value) & (best == best));
      best = better ? value : best;
      choice = better ? splat<V>(static_cast<T>(number)) : choice;
    });
    store(choice_at(s, l, n, y, x) + c, choice);
    store(to(n, y, x) + c, layer.relu ? relu(best) : best);
  });
}

template <class T>
void max_pool_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  using V = Wide<T>;
  const Layer& layer = s.layer(l);
  const Map<T> y_map = s.output_map(l), to = d.output_map(l);
  for_pixels<T>(s.n, layer.out_size, layer.out, [&](Index n, Index y, Index x, Index c) {
    const V choice = load<V>(choice_at(s, l, n, y, x) + c);
    V value{};
    if (l > 0)
      for_window(layer, y, x, [&](Index iy, Index ix, Index number) {
        value = choice == splat<V>(static_cast<T>(number)) ? load<V>(d.input_map(l)(n, iy, ix) + c) : value;
      });
    store(to(n, y, x) + c, layer.relu ? gate(value, load<V>(y_map(n, y, x) + c)) : value);
  });
}

// Adjoints (or their tangents: the map is linear) go back to the pixels that were chosen; windows may overlap.
template <class T>
void max_pool_adjoint(const Sweep<T>& s, Index l, const Map<T>& from, const Map<T>& to) {
  using V = Wide<T>;
  const Layer& layer = s.layer(l);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) { store(to(n, y, x) + c, V{}); });
  for_pixels<T>(s.n, layer.out_size, layer.out, [&](Index n, Index y, Index x, Index c) {
    const V choice = load<V>(choice_at(s, l, n, y, x) + c), value = load<V>(from(n, y, x) + c);
    for_window(layer, y, x, [&](Index iy, Index ix, Index number) {
      T* at = to(n, iy, ix) + c;
      store(at, load<V>(at) + (choice == splat<V>(static_cast<T>(number)) ? value : V{}));
    });
  });
  if (!layer.input_relu) return;
  const Map<T> input = s.input_map(l);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) {
    store(to(n, y, x) + c, gate(load<V>(to(n, y, x) + c), load<V>(input(n, y, x) + c)));
  });
}

template <class T>
void spatial_mean(const Layer& layer, Index n, const Map<T>& from, const Map<T>& to, const Map<T>* gates) {
  using V = Wide<T>;
  const T inverse = T(1) / static_cast<T>(layer.in_size[0] * layer.in_size[1]);
  constexpr Index one[2] = {1, 1};
  for_pixels<T>(n, one, layer.out, [&](Index s, Index, Index, Index c) {
    V sum{};
    for (Index y = 0; y < layer.in_size[0]; ++y) {
      V line{};
      for (Index x = 0; x < layer.in_size[1]; ++x) line += load<V>(from(s, y, x) + c);
      sum += line;
    }
    sum *= inverse;
    if (layer.relu) sum = gates ? gate(sum, load<V>((*gates)(s, 0, 0) + c)) : relu(sum);
    store(to(s, 0, 0) + c, sum);
  });
}

template <class T>
void spatial_mean_adjoint(const Sweep<T>& s, Index l, const Map<T>& from, const Map<T>& to) {
  using V = Wide<T>;
  const Layer& layer = s.layer(l);
  const Map<T> input = s.input_map(l);
  const T inverse = T(1) / static_cast<T>(layer.in_size[0] * layer.in_size[1]);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) {
    V value = load<V>(from(n, 0, 0) + c) * inverse;
    if (layer.input_relu) value = gate(value, load<V>(input(n, y, x) + c));
    store(to(n, y, x) + c, value);
  });
}

template <class T>
void spatial_mean_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Map<T> gates = s.output_map(l), to = d.output_map(l);
  if (l > 0) return spatial_mean(s.layer(l), s.n, d.input_map(l), to, &gates);
  for (Index n = 0; n < s.n; ++n) zero(to(n, 0, 0), padded<T>(s.layer(l).out));
}

// ---- tanh, and a ReLU that no other layer could take in ----

template <class T>
void image_activation_forward(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const Map<T> from = s.input_map(l), to = s.output_map(l);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) {
    for (Index i = c; i < c + kLanes<T>; ++i) {
      T value = from(n, y, x)[i];
      if (layer.kind == Kind::tanh) value = hyperbolic_tangent(value);
      to(n, y, x)[i] = layer.relu && value < T(0) ? T(0) : value;
    }
  });
}

template <class T>
void image_activation_tangent_forward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const Map<T> y_map = s.output_map(l), to = d.output_map(l);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) {
    for (Index i = c; i < c + kLanes<T>; ++i) {
      const T value = y_map(n, y, x)[i], dx = l == 0 ? T(0) : d.input_map(l)(n, y, x)[i];
      to(n, y, x)[i] = layer.relu && !(value > T(0)) ? T(0) : dx * slope(layer, value);
    }
  });
}

template <class T>
void image_activation_backward(const Sweep<T>& s, Index l) {
  const Layer& layer = s.layer(l);
  const Map<T> x_map = s.input_map(l), y_map = s.output_map(l), from = s.output_delta_map(l), to = s.delta_map(l);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) {
    for (Index i = c; i < c + kLanes<T>; ++i) {
      const bool open = !layer.input_relu || x_map(n, y, x)[i] > T(0);
      to(n, y, x)[i] = open ? from(n, y, x)[i] * slope(layer, y_map(n, y, x)[i]) : T(0);
    }
  });
}

template <class T>
void image_activation_tangent_backward(const Sweep<T>& s, const Sweep<T>& d, Index l) {
  const Layer& layer = s.layer(l);
  const Map<T> x_map = s.input_map(l), y_map = s.output_map(l), y_dot = d.output_map(l);
  const Map<T> dy = s.output_delta_map(l), dy_dot = d.output_delta_map(l), to = d.delta_map(l);
  for_pixels<T>(s.n, layer.in_size, layer.in, [&](Index n, Index y, Index x, Index c) {
    for (Index i = c; i < c + kLanes<T>; ++i) {
      const T value = y_map(n, y, x)[i];
      T result = dy_dot(n, y, x)[i] * slope(layer, value);
      if (layer.kind == Kind::tanh) result -= T(2) * value * y_dot(n, y, x)[i] * dy(n, y, x)[i];
      to(n, y, x)[i] = !layer.input_relu || x_map(n, y, x)[i] > T(0) ? result : T(0);
    }
  });
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
