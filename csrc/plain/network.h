// A straight-line network, its packed parameter layout, and the sizes of everything a task needs.
// Plain structures without inline functions of external linkage: files of every instruction set share them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmaml {

using Index = std::ptrdiff_t;

// Every row is padded with zeros to whole cache lines, so that kernels have no ragged ends and no vector straddles two.
constexpr Index kPadBytes = 64;
constexpr Index kAlignBytes = 64;

template <class T>
static constexpr Index padded(Index width) {
  constexpr Index unit = kPadBytes / static_cast<Index>(sizeof(T));
  return (width + unit - 1) / unit * unit;
}

template <class T>
static constexpr Index aligned(Index count) {
  constexpr Index unit = kAlignBytes / static_cast<Index>(sizeof(T));
  return (count + unit - 1) / unit * unit;
}

// Images lie channels last, a pixel padded like a row: what it is padded to is one panel of a convolution's weights.
template <class T>
constexpr Index kPanel = kPadBytes / static_cast<Index>(sizeof(T));

// Which of at most 64 units a sample opens; unit u is bit u.
using Bits = std::uint64_t;
constexpr Index kMostOpen = 64;

enum class Kind : int { linear = 0, batch_norm, tanh, relu, append, conv, max_pool, spatial_mean };
enum class Loss : int { mse = 0, cross_entropy, gaussian, categorical };

// Numbers that a sample's target has; cross-entropy has a label instead.
static constexpr Index target_width(Loss loss, Index outputs) {
  if (loss == Loss::cross_entropy) return 0;
  return loss == Loss::gaussian ? outputs + 1 : outputs;
}

// How the weights of a linear layer are laid out in a packed parameter vector.
//   outputs_in_lanes: [in (+1), padded(out)], the bias as one more row, which a column of ones multiplies
//   inputs_in_lanes:  [out, padded(in + 1)], the bias as one more column
//   gram:             the layer's weights are never copied per task (see generic/forms/copies/gram.h)
enum class Layout : int { outputs_in_lanes, inputs_in_lanes, gram };

// What a convolution or a pooling layer moves over its input. [0] is y, [1] is x, as everywhere.
struct Window {
  Index kernel[2] = {1, 1}, stride[2] = {1, 1}, pad[2] = {0, 0};
};

struct Layer {
  Kind kind = Kind::linear;
  Index in = 0, out = 0;         // features, or channels of an image
  Index weight = -1, bias = -1;  // places in the user's flat parameter vector [P]; -1: none
  double eps = 0;
  bool relu = false;        // a ReLU follows, fused into this layer
  bool input_relu = false;  // the input came out of a fused ReLU: its gradient is gated by input > 0
  Layout layout = Layout::outputs_in_lanes;

  bool image = false;  // the input is an image
  Index in_size[2] = {1, 1}, out_size[2] = {1, 1};
  Window window;      // of a convolution or of max-pooling
  bool pool = false;  // batch norm: max-pooling by `window` follows, fused into this layer
  bool stem = false;  // a first convolution and the batch norm after it, made as one (generic/images/stem.h)
  Index pixels = 1, channels = 0;  // linear: the input is a flattened image; 0 channels: it is not
};

// A stem takes patches of at most this many numbers, and max-pooling of at most this many pixels.
constexpr Index kStemRows = 32, kStemWindow = 16;
constexpr Index kStemPixels = 96;  // at least so many pixels of z are made at a time, in whole lines of windows

// Lines of z that a stem makes at a time: those of whole windows.
static inline Index stem_lines(const Layer& norm) {
  const Index high = norm.pool ? norm.window.kernel[0] : 1, most = high * norm.out_size[0];
  Index lines = high;
  while (lines < most && lines * norm.in_size[1] < kStemPixels) lines += high;
  return lines;
}

// Where an image's pixels lie, from the first element of its memory, borders of zeros around each sample included.
struct Image {
  Index origin = 0;  // pixel (0, 0) of sample 0
  Index sample = 0, row = 0, pixel = 0;
  Index before[2] = {0, 0}, after[2] = {0, 0}, size[2] = {0, 0};  // borders, and what they surround
};

// Sizes are in elements of T. A "row" is one sample.
template <class T>
struct LayerPlace {
  Index weight = 0, scale = 0, shift = 0;   // places in the packed vector
  Index packed_rows = 0, packed_width = 0;  // of a linear layer's weights
  Index transposed = 0;                     // place of the transposed weights [out, padded(in)]
  bool has_transposed = false;
  Index input = 0, delta = 0;               // places in a state: input [n, width], its adjoint [n, width]
  Index open = -1;                          // of which units of the input each sample opens: Bits [n]; -1: not kept
  Index normalised = 0, statistics = 0;     // batch norm: x-hat [n, width], and rows of [width]
  Index input_width = 0, output_width = 0;  // row strides
  Image input_image, delta_image;
  Index selected = 0, choice = 0;  // fused pooling: the inputs that were the largest, and which of their window
  Index sums = 0;                  // batch norm of images: [kNumSums, padded(channels)] of double
  Index lines = 0;                 // of a stem: some lines of z, made and used at a time
  Index spread = 0;                // of a stem: covariance of the patches times weights, [rows, padded(out)] of double
};

// batch norm keeps these rows of [width] beside x-hat
enum Statistic : Index { kRstd = 0, kMeanDelta, kMeanDeltaX, kRstdTangent, kMean, kMeanX, kNumStatistics };
constexpr Index kNumSums = 3;

struct Network {
  const Layer* layers = nullptr;
  Index depth = 0;
  Loss loss = Loss::mse;
  Index num_parameters = 0;
  Index inputs = 0, outputs = 0;
};

// Everything that depends on the shapes of one call.
template <class T>
struct Shape {
  Index support = 0, query = 0, rows = 0;  // samples per task; rows = max of both
  Index steps = 0;
  const LayerPlace<T>* places = nullptr;
  Index packed = 0;      // length of a packed parameter vector
  Index transposed = 0;  // length of the transposed copies
  Index state = 0;       // length of the activations and adjoints of one sample set
  Index output = 0, output_delta = 0, probabilities = 0, output_width = 0;
  bool gram = false;
  bool ordered = false;       // samples are taken in the order of their one input
  bool images = false;        // the data are images
  Index data = 0;             // elements of one sample of the data
  Index weight_gradient = 0;  // place in a state: partial sums of a convolution's weight gradient
  Index patches = 0;          // elements that the statistics of a stem's patches take; 0 without one
};

}  // namespace fastmaml
