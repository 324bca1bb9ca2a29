// A first convolution with the batch norm, ReLU and max-pooling behind it, as one layer. Its input does not move and
// needs no adjoint, hence z, the convolution's output, is never kept: a few lines of it at a time become outputs, its
// statistics come from those of the data's patches, and so does what the statistics add to the gradient of the weights.
// Derivation: docs/convolutions.md.
#pragma once

#include "generic/images/norm_tangent.h"
#include "generic/images/patches.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Of one sweep: weights as conv.h has them, [panel of outputs][row of the patch][output of the panel].
template <class T>
struct Stem {
  const Layer &conv, &norm;
  Patches patches;
  const T *weight, *bias;
  double* spread;  // covariance times weights [rows, width]
  ImageNorm<T> b;

  // d: of the parameters, or of a direction; s: of the data
  Stem(const Sweep<T>& s, const Sweep<T>& d)
      : conv(s.layer(0)),
        norm(s.layer(1)),
        patches(conv, const_cast<double*>(s.patches)),
        weight(d.theta + d.place(0).weight),
        bias(conv.bias >= 0 ? d.theta + d.place(0).shift : nullptr),
        spread(reinterpret_cast<double*>(d.state + d.place(1).spread)),
        b(image_norm(d, 1)) {}

  double weight_at(Index row, Index c) const {
    return static_cast<double>(weight[(c / kPanel<T> * patches.rows + row) * kPanel<T> + c % kPanel<T>]);
  }
};

// The weights' product with the covariance, and with the mean: that is the mean of z, in the row kMean.
template <class T>
void spread_weights(const Stem<T>& stem) {
  const Index rows = stem.patches.rows, width = stem.b.width;
  for (Index i = 0; i < rows; ++i) {
    double* to = stem.spread + i * width;
    for (Index c = 0; c < width; ++c) to[c] = 0;
    for (Index j = 0; j < rows; ++j) {
      const double by = stem.patches.covariance[i * rows + j];
      for (Index c = 0; c < width; ++c) to[c] += by * stem.weight_at(j, c);
    }
  }
  for (Index c = 0; c < width; ++c) {
    double mean = stem.bias ? static_cast<double>(stem.bias[c]) : 0;
    for (Index i = 0; i < rows; ++i) mean += stem.patches.mean[i] * stem.weight_at(i, c);
    stem.b.row(kMean)[c] = static_cast<T>(mean);
  }
}

// w^T spread, of one channel
template <class T>
double weighted(const Stem<T>& stem, const double* spread, Index c) {
  double sum = 0;
  for (Index i = 0; i < stem.patches.rows; ++i) sum += stem.weight_at(i, c) * spread[i * stem.b.width + c];
  return sum;
}

template <class T>
void stem_statistics(const Stem<T>& stem) {
  spread_weights(stem);
  for (Index c = 0; c < stem.b.width; ++c) {
    const double found = weighted(stem, stem.spread, c), variance = found < 0 ? 0 : found;
    stem.b.row(kRstd)[c] = c < stem.norm.out ? static_cast<T>(1 / square_root(variance + stem.norm.eps)) : T(0);
  }
}

// Makes some lines of z at a time and calls use(lines, sample, line of outputs) for every line of outputs they give.
template <class T, class Use>
void for_lines(const Stem<T>& stem, const Map<T>& x, Use use) {
  const Layer &conv = stem.conv, &norm = stem.norm;
  const ImageNorm<T>& b = stem.b;
  const Index step = line_step(b), most = stem_lines(norm) / step, width = b.width;
  const Map<T> to{b.z.at, 0, b.z.row, b.z.pixel};
  constexpr Index one[2] = {1, 1};
  for (Index s = 0; s < b.n; ++s)
    for (Index y = 0; y < norm.out_size[0]; y += most) {
      const Index lines = norm.out_size[0] - y < most ? norm.out_size[0] - y : most;
      const Map<T> from{x(s, y * step * conv.window.stride[0], 0), x.sample, x.row, x.pixel};
      Product<T> product;
      add_forward(conv, from, stem.weight, product);
      ConvOutput<T> out{to.at};
      out.bias = stem.bias;
      const Grid grid{{lines * step, conv.out_size[1]}};
      convolve(product, stem.patches.rows * kPanel<T>, width / kPanel<T>, 1, grid, steps(from, conv.window.stride),
               steps(to, one), steps(to, one), out);
      for (Index line = 0; line < lines; ++line) use(to.at + line * step * b.z.row, s, y + line);
    }
}

template <class T>
void stem_forward(const Sweep<T>& s) {
  const Stem<T> stem(s, s);
  stem_statistics(stem);
  for_lines(stem, s.input_map(0), [&](const T* z, Index sample, Index y) { norm_line(stem.b, z, sample, y); });
}

template <class T>
void stem_tangent_forward(const Sweep<T>& s, const Sweep<T>& d) {
  const Stem<T> stem(s, s), tangent(s, d);
  zero_sums(tangent.b, 2, 3);
  spread_weights(tangent);
  for (Index c = 0; c < stem.b.width; ++c)  // mean of x-hat z-dot
    tangent.b.row(kMeanX)[c] =
        static_cast<T>(static_cast<double>(stem.b.row(kRstd)[c]) * weighted(tangent, stem.spread, c));
  for_lines(tangent, s.input_map(0),
            [&](const T* z_dot, Index sample, Index y) { norm_tangent_line(stem.b, tangent.b, z_dot, sample, y); });
}

// ---- the gradient of the weights ----

// Some outputs at a time, each with its window of inputs: places of their patches, and of the outputs.
struct Windows {
  Index patches[kChunk], outputs[kChunk], choices[kChunk];
  Index count = 0;  // of outputs

  template <class T>
  void add(const Stem<T>& stem, const Map<T>& x, Index s, Index y, Index p) {
    const Window& w = stem.norm.window;
    const Index high = stem.norm.pool ? w.kernel[0] : 1, wide = stem.norm.pool ? w.kernel[1] : 1;
    const Index* stride = stem.conv.window.stride;
    Index* to = patches + count * high * wide;
    for (Index ky = 0; ky < high; ++ky)
      for (Index kx = 0; kx < wide; ++kx)
        *to++ = s * x.sample + (y * high + ky) * stride[0] * x.row + (p * wide + kx) * stride[1] * x.pixel;
    outputs[count] = s * stem.b.dy.sample + y * stem.b.dy.row + p * stem.b.dy.pixel;
    choices[count++] = ((s * stem.norm.out_size[0] + y) * stem.norm.out_size[1] + p) * stem.b.width;
  }
};

constexpr Index kPackedPanels = 4;  // so many are packed together: outputs are then read as they lie

// Adjoints of a chunk's outputs, `adjoint(place, channel)`, each where max-pooling has found it and zero beside.
template <class T, class Adjoint>
void pack_windows(const Stem<T>& stem, const Windows& chunk, Index pooled, Index panel, Index panels, Adjoint adjoint,
                  T (*to)[kChunk * kPanel<T>]) {
  using V = Wide<T>;
  for (Index i = 0; i < chunk.count; ++i)
    for (Index c = 0; c < panels * kPanel<T>; c += kLanes<T>) {
      const V g = adjoint(chunk.outputs[i], panel + c);
      T* at = to[c / kPanel<T>] + i * pooled * kPanel<T> + c % kPanel<T>;
      if (!stem.norm.pool) {
        store(at, g);
        continue;
      }
      const V choice = load<V>(stem.b.choice + chunk.choices[i] + panel + c);
      for (Index k = 0; k < pooled; ++k) {
        const auto here = choice == splat<V>(static_cast<T>(k));
        store(at + k * kPanel<T>, here ? g : V{});
      }
    }
}

// sums [panel][rows, kPanel] of the patches that made the outputs, times the outputs' adjoints
template <class T, class Adjoint>
void sum_windows(const Stem<T>& stem, const Map<T>& x, Adjoint adjoint, T* sums) {
  const Index rows = stem.patches.rows;
  const Index pooled = stem.norm.pool ? stem.norm.window.kernel[0] * stem.norm.window.kernel[1] : 1;
  Index row_at[kStemRows];
  row_places(stem.conv, x, 0, rows, row_at);
  Windows chunk;
  bool first = true;
  const auto flush = [&] {
    alignas(kPadBytes) T packed[kPackedPanels][kChunk * kPanel<T>];
    for (Index panel = 0; panel < stem.b.width; panel += kPackedPanels * kPanel<T>) {
      const Index left = (stem.b.width - panel) / kPanel<T>, panels = left < kPackedPanels ? left : kPackedPanels;
      pack_windows(stem, chunk, pooled, panel, panels, adjoint, packed);
      for (Index i = 0; i < panels; ++i) {
        const PixelSum<T> term{x.at, packed[i]};
        T* to = sums + (panel + i * kPanel<T>)*rows;
        sum_chunk(&term, 1, row_at, rows, chunk.patches, chunk.count * pooled, first, to);
      }
    }
    first = false;
    chunk.count = 0;
  };
  for (Index s = 0; s < stem.b.n; ++s)
    for (Index y = 0; y < stem.norm.out_size[0]; ++y)
      for (Index p = 0; p < stem.norm.out_size[1]; ++p) {
        chunk.add(stem, x, s, y, p);
        if ((chunk.count + 1) * pooled > kChunk) flush();
      }
  if (chunk.count) flush();
}

// Takes from sums what the statistics take, by(row, channel) in double, and writes it; z-bar sums to zero: no bias.
template <class T, class By>
void stem_sums_to(const Stem<T>& stem, const LayerPlace<T>& p, T* sums, By by, const Destination<T>& to) {
  const Index rows = stem.patches.rows;
  for (Index c = 0; c < stem.b.width; ++c)
    for (Index i = 0; i < rows; ++i) {
      T& at = sums[(c / kPanel<T> * rows + i) * kPanel<T> + c % kPanel<T>];
      at = static_cast<T>(by(static_cast<double>(at), i, c));
    }
  put_all(to, p.weight, sums, rows * stem.b.width);
  if (!stem.bias) return;
  zero(sums, stem.b.width);
  put_all(to, p.shift, sums, stem.b.width);
}

// W-bar = scale rstd (sum of y-bar patch - mean(patch) sum(y-bar) - rstd C W sum(y-bar x-hat))
template <class T>
void stem_gradient(const Sweep<T>& s, const Destination<T>& to) {
  const Stem<T> stem(s, s);
  const ImageNorm<T>& b = stem.b;
  T* sums = s.state + s.shape.weight_gradient;
  sum_windows(stem, s.input_map(0), [&](Index at, Index c) { return load<Wide<T>>(b.dy.at + at + c); }, sums);
  const auto by = [&](double sum, Index row, Index c) {
    const double rstd = static_cast<double>(b.row(kRstd)[c]), scale = b.scale ? static_cast<double>(b.scale[c]) : 1;
    const double mean = stem.patches.mean[row] * static_cast<double>(b.row(kMeanDelta)[c]);
    const double spread = stem.spread[row * b.width + c] * static_cast<double>(b.row(kMeanDeltaX)[c]);
    return scale * rstd * (sum - mean - rstd * spread);
  };
  stem_sums_to(stem, s.place(0), sums, by, to);
}

// Its derivative in the direction; factor = scale rstd, and factor_dot that one's derivative
template <class T>
void stem_tangent_gradient(const Sweep<T>& s, const Sweep<T>& d, const Destination<T>& to) {
  using V = Wide<T>;
  const Stem<T> stem(s, s), tangent(s, d);
  const ImageNorm<T>&b = stem.b, &t = tangent.b;
  T* sums = d.state + d.shape.weight_gradient;
  const auto factors = [&](auto one, auto at) {  // of a channel or of a vector of them
    const auto rstd = at(b.row(kRstd)), scale = b.scale ? at(b.scale) : one;
    const auto dot = t.scale ? at(t.scale) : one - one;
    struct Factors {
      decltype(one) factor, factor_dot;
    };
    return Factors{scale * rstd, rstd * (dot - scale * rstd * at(t.row(kMeanX)))};
  };
  const auto adjoint = [&](Index at, Index c) {
    const auto f = factors(splat<V>(T(1)), [=](const T* from) { return load<V>(from + c); });
    return f.factor * load<V>(t.dy.at + at + c) + f.factor_dot * load<V>(b.dy.at + at + c);
  };
  sum_windows(stem, s.input_map(0), adjoint, sums);
  const auto by = [&](double sum, Index row, Index c) {
    const auto number = [=](const T* from) { return static_cast<double>(from[c]); };
    const auto f = factors(1.0, number);
    const double rstd = number(b.row(kRstd)), old_x = number(b.row(kMeanDeltaX));
    const double mean = f.factor * number(t.row(kMeanDelta)) + f.factor_dot * number(b.row(kMeanDelta));
    const double spread = stem.spread[row * b.width + c], spread_dot = tangent.spread[row * b.width + c];
    const double x = f.factor * number(t.row(kMeanDeltaX)) + f.factor_dot * old_x;
    const double moved = spread_dot - spread * rstd * number(t.row(kMeanX));
    return sum - mean * stem.patches.mean[row] - rstd * (spread * x + f.factor * old_x * moved);
  };
  stem_sums_to(stem, s.place(0), sums, by, to);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
