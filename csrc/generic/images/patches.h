// Mean and covariance of the patches that a first convolution multiplies by its weights. z = w patch, so that mean and
// variance of z follow from them, for any weights, without a look at the data. The batch norm behind it takes any
// constant off again: images are kept less the means of their channels, borders of padding too, so that no digits are
// lost to a brightness that all pixels share.
#pragma once

#include "generic/images/conv_gradient.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

inline Index patch_rows(const Layer& conv) { return conv.window.kernel[0] * conv.window.kernel[1] * conv.in; }

struct Patches {
  double *mean, *covariance;  // [rows], [rows, rows]
  Index rows;
  Patches(const Layer& conv, double* at) : mean(at), covariance(at + patch_rows(conv)), rows(patch_rows(conv)) {}
};

template <class T>
void channel_means(const Layer& conv, const Map<T>& x, Index n, T* means) {
  double sums[kStemRows] = {};
  for (Index s = 0; s < n; ++s)
    for (Index y = 0; y < conv.in_size[0]; ++y)
      for (Index p = 0; p < conv.in_size[1]; ++p)
        for (Index c = 0; c < conv.in; ++c) sums[c] += static_cast<double>(x(s, y, p)[c]);
  const double count = static_cast<double>(n * conv.in_size[0] * conv.in_size[1]);
  for (Index c = 0; c < conv.in; ++c) means[c] = static_cast<T>(sums[c] / count);
}

template <class T>
void centre_images(const Layer& conv, const Image& image, Index n, T* data) {
  T means[kStemRows];
  channel_means(conv, Map<T>{data + image.origin, image.sample, image.row, image.pixel}, n, means);
  for (Index s = 0; s < n; ++s, data += image.sample) {
    zero_border(data, image);
    for (T* pixel = data; pixel < data + image.sample; pixel += image.pixel)
      for (Index c = 0; c < conv.in; ++c) pixel[c] -= means[c];
  }
}

constexpr Index kStemWidth = kStemRows;  // numbers of a patch, padded to whole panels of either precision
template <class T>
constexpr Index kStemPanels = kStemWidth / kPanel<T>;

// A chunk of patches, [panel][count, kPanel], zero beyond the last row; and their sum.
template <class T>
struct PatchChunk {
  alignas(kPadBytes) T patches[kChunk * kStemWidth];
  alignas(kPadBytes) T packed[kStemPanels<T>][kChunk * kPanel<T>];
  alignas(kPadBytes) T total[kStemWidth];

  PatchChunk() { zero(patches, kChunk * kStemWidth); }

  // Of each patch `run` numbers lie side by side: a row of taps where pixels have no padding.
  void take(const T* x, const Index* row_at, Index rows, Index run, const Index* pixels, Index count) {
    for (Index p = 0; p < count; ++p)
      for (Index r = 0; r < rows; r += run)
        for (Index i = 0; i < run; ++i) patches[p * kStemWidth + r + i] = x[pixels[p] + row_at[r] + i];
    for (Index c = 0; c < kStemWidth; c += kLanes<T>) pack(c, count);
  }

  void pack(Index c, Index count) {
    Wide<T> sum{};
    T* to = packed[c / kPanel<T>] + c % kPanel<T>;
    for (Index p = 0; p < count; ++p, to += kPanel<T>) {
      const Wide<T> value = load<Wide<T>>(patches + p * kStemWidth + c);
      store(to, value);
      sum += value;
    }
    store(total + c, sum);
  }
};

// Adds the products of a chunk's patches with each panel of them, down to the diagonal's end.
template <class T>
void add_chunk(const T* x, const PatchChunk<T>& chunk, const Index* row_at, const Index* pixels, Index count,
               const Patches& to) {
  alignas(kPadBytes) T sums[kStemRows * kPanel<T>];
  for (Index first = 0; first < to.rows; first += kPanel<T>) {
    const Index left = to.rows - first, wide = left < kPanel<T> ? left : kPanel<T>;
    const PixelSum<T> term{x, chunk.packed[first / kPanel<T>]};
    sum_chunk(&term, 1, row_at, first + wide, pixels, count, true, sums);
    for (Index i = 0; i < first + wide; ++i)
      for (Index j = 0; j < wide; ++j)
        to.covariance[i * to.rows + first + j] += static_cast<double>(sums[i * kPanel<T> + j]);
  }
  for (Index i = 0; i < to.rows; ++i) to.mean[i] += static_cast<double>(chunk.total[i]);
}

// From sums to mean and covariance, below the diagonal too.
inline void finish_patches(double count, const Patches& to) {
  for (Index i = 0; i < to.rows; ++i) to.mean[i] /= count;
  for (Index j = to.rows - 1; j >= 0; --j)
    for (Index i = 0; i <= j; ++i) {
      const double value = to.covariance[i * to.rows + j] / count - to.mean[i] * to.mean[j];
      to.covariance[i * to.rows + j] = to.covariance[j * to.rows + i] = value;
    }
}

// Sums in the working precision over a chunk of patches, in double over all.
template <class T>
void find_patches(const Layer& conv, const Map<T>& x, Index n, double* at) {
  const Patches to(conv, at);
  for (Index i = 0; i < to.rows * (to.rows + 1); ++i) at[i] = 0;
  Index row_at[kStemRows];
  row_places(conv, x, 0, to.rows, row_at);
  const Grid grid{{conv.out_size[0], conv.out_size[1]}};
  const Index total = n * grid.pixels(), run = x.pixel == conv.in ? conv.window.kernel[1] * conv.in : conv.in;
  PatchChunk<T> chunk;
  for (Index first = 0; first < total; first += kChunk) {
    const Index count = total - first < kChunk ? total - first : kChunk;
    Index pixels[kChunk];
    places(grid, steps(x, conv.window.stride), first, count, pixels);
    chunk.take(x.at, row_at, to.rows, run, pixels, count);
    add_chunk(x.at, chunk, row_at, pixels, count, to);
  }
  finish_patches(static_cast<double>(total), to);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
