#include "host/model.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace fastmaml {
namespace {

Layer make_layer(const std::string& kind, Index in, Index out, Index weight, Index bias, double eps) {
  Layer layer;
  if (kind == "linear") layer.kind = Kind::linear;
  else if (kind == "batch_norm") layer.kind = Kind::batch_norm;
  else if (kind == "tanh") layer.kind = Kind::tanh;
  else if (kind == "relu") layer.kind = Kind::relu;
  else if (kind == "append") layer.kind = Kind::append;
  else if (kind == "conv") layer.kind = Kind::conv;
  else if (kind == "max_pool") layer.kind = Kind::max_pool;
  else if (kind == "spatial_mean") layer.kind = Kind::spatial_mean;
  else throw std::invalid_argument("unknown layer kind '" + kind + "'");
  require(in >= 1 && out >= 1, "layer widths must be at least 1");
  layer.in = in;
  layer.out = out;
  layer.weight = weight;
  layer.bias = bias;
  layer.eps = eps;
  return layer;
}

Loss loss_named(const std::string& name) {
  if (name == "mse") return Loss::mse;
  if (name == "cross_entropy") return Loss::cross_entropy;
  if (name == "gaussian") return Loss::gaussian;
  require(name == "categorical", "loss must be 'mse', 'cross_entropy', 'gaussian' or 'categorical'");
  return Loss::categorical;
}

void set_geometry(Layer& layer, const Geometry& geometry) {
  if (geometry.empty()) return;
  require(geometry.size() == 10, "the geometry of a layer is 10 numbers, or none");
  Window& w = layer.window;
  Index* const to[] = {layer.in_size, layer.out_size, w.kernel, w.stride, w.pad};
  for (std::size_t i = 0; i < geometry.size(); ++i) to[i / 2][i % 2] = geometry[i];
  layer.image = true;
  for (int axis = 0; axis < 2; ++axis) {
    require(layer.in_size[axis] >= 1 && layer.out_size[axis] >= 1, "images need at least one pixel");
    require(w.kernel[axis] >= 1 && w.stride[axis] >= 1 && w.pad[axis] >= 0, "a window must have a size and a stride");
    require(w.pad[axis] < w.kernel[axis], "padding must be smaller than the kernel");
    const Index reach = (layer.out_size[axis] - 1) * w.stride[axis] + w.kernel[axis];
    const bool windowed = layer.kind == Kind::conv || layer.kind == Kind::max_pool;
    require(!windowed || reach <= layer.in_size[axis] + 2 * w.pad[axis], "a window reaches beyond the image");
  }
  require(w.kernel[0] * w.kernel[1] <= 225, "windows have at most 225 taps");
}

// Max-pooling without overlap is fused into the batch norm before it.
bool fuse_pool(Layer& before, const Layer& layer) {
  const Window& w = layer.window;
  const bool apart = w.kernel[0] == w.stride[0] && w.kernel[1] == w.stride[1] && w.pad[0] + w.pad[1] == 0;
  if (before.kind != Kind::batch_norm || !before.image || before.pool || !apart) return false;
  before.pool = true;
  before.window = w;
  for (int axis = 0; axis < 2; ++axis) before.out_size[axis] = layer.out_size[axis];
  return true;
}

// A first convolution of small patches and the batch norm behind it.
void fuse_stem(std::vector<Layer>& layers) {
  if (layers.size() < 2 || !layers[1].image) return;
  Layer &conv = layers[0], &norm = layers[1];
  const Index pooled = norm.pool ? norm.window.kernel[0] * norm.window.kernel[1] : 1;
  const bool kinds = conv.kind == Kind::conv && !conv.relu && norm.kind == Kind::batch_norm;
  const bool small = conv.window.kernel[0] * conv.window.kernel[1] * conv.in <= kStemRows && pooled <= kStemWindow;
  conv.stem = norm.stem = kinds && small;
}

// A linear layer after an image takes all its pixels.
void flatten(const Layer& before, Layer& layer) {
  require(layer.kind == Kind::linear, "only a linear layer may follow a flattened image");
  layer.channels = before.out;
  layer.pixels = before.out_size[0] * before.out_size[1];
  for (int axis = 0; axis < 2; ++axis) layer.in_size[axis] = before.out_size[axis];
  require(layer.in == layer.channels * layer.pixels, "layer widths do not chain");
}

// On its way back a convolution needs zeros around the adjoint of its output, for which the rows of a linear layer have
// no room: a layer between them that changes nothing takes it there.
void insert_copy(std::vector<Layer>& layers) {
  Layer copy;
  const Layer& before = layers.back();
  copy.kind = Kind::relu;
  copy.image = true;
  copy.in = copy.out = before.out;
  copy.input_relu = before.relu;
  for (int axis = 0; axis < 2; ++axis) copy.in_size[axis] = copy.out_size[axis] = before.out_size[axis];
  layers.push_back(copy);
}

Index weights_of(const Layer& layer) {
  if (layer.kind == Kind::linear) return layer.in * layer.out;
  const bool conv = layer.kind == Kind::conv;
  return conv ? layer.in * layer.out * layer.window.kernel[0] * layer.window.kernel[1] : layer.out;
}

void chain(const Layer& before, Layer& layer) {
  require(before.image || !layer.image, "a layer on images follows one on rows");
  if (before.image && !layer.image) return flatten(before, layer);
  require(before.out == layer.in, "layer widths do not chain");
  for (int axis = 0; axis < 2; ++axis)
    require(!layer.image || before.out_size[axis] == layer.in_size[axis], "image sizes do not chain");
}

// Whether [offset, offset + count) is one parameter. A negative offset is that of none.
bool is_whole(const std::vector<Index>& counts, Index offset, Index count) {
  Index begin = 0;
  for (const Index each : counts) {
    if (begin == offset && each == count) return true;
    begin += each;
  }
  return offset < 0;
}

}  // namespace

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

// A ReLU is fused into the layer before it; it stands alone only in front.
Model make_model(const std::vector<LayerTuple>& tuples, const std::string& loss, const std::vector<Index>& counts,
                 const std::vector<Geometry>& geometry) {
  Model model;
  const Index num_parameters = std::accumulate(counts.begin(), counts.end(), Index{0});
  model.counts = counts;
  require(!tuples.empty(), "a network needs at least one layer");
  model.loss = loss_named(loss);
  model.num_parameters = num_parameters;
  require(geometry.empty() || geometry.size() == tuples.size(), "there must be one geometry for each layer");
  for (std::size_t i = 0; i < tuples.size(); ++i) {
    Layer layer = std::apply(make_layer, tuples[i]);
    if (!geometry.empty()) set_geometry(layer, geometry[i]);
    require(layer.image || layer.kind < Kind::conv, "a layer on images needs a geometry");
    const bool rows = layer.kind == Kind::linear;
    if (rows && !model.layers.empty() && model.layers.back().kind == Kind::conv) insert_copy(model.layers);
    if (!model.layers.empty()) chain(model.layers.back(), layer);
    if (layer.kind == Kind::max_pool && !model.layers.empty() && fuse_pool(model.layers.back(), layer)) continue;
    if (layer.kind == Kind::relu && !model.layers.empty()) {
      model.layers.back().relu = true;
      continue;
    }
    layer.relu = layer.kind == Kind::relu;
    layer.input_relu = !model.layers.empty() && model.layers.back().relu;
    const bool appends = layer.kind == Kind::append;
    const bool whole = is_whole(counts, layer.weight, weights_of(layer)) &&
                       is_whole(counts, layer.bias, layer.out - (appends ? layer.in : 0));
    require(whole, "the size of a parameter is not that of its layer's weight or bias");
    const bool needs = layer.kind == Kind::linear || layer.kind == Kind::conv;
    require(!needs || layer.weight >= 0, "a linear layer or a convolution needs a weight");
    require(!appends || (layer.bias >= 0 && layer.out > layer.in), "an appending layer needs parameters");
    require(!appends || i + 1 == tuples.size(), "an appending layer must be the last");
    model.layers.push_back(layer);
  }
  fuse_stem(model.layers);
  const Layer& last = model.layers.back();
  require(!last.image || last.kind == Kind::spatial_mean, "a network ends in rows or in a spatial mean");
  require(model.loss != Loss::gaussian || last.out % 2 == 0, "'gaussian' needs an even number of outputs");
  return model;
}

}  // namespace fastmaml
