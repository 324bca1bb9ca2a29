// Python's side of the core: raw addresses and sizes, which fastmaml/engines/cpu.py has checked.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

#include "core.h"
#include "dispatch.h"
#include "linearised.h"
#include "pieces.h"
#include "profile.h"
#include "scratch.h"

namespace py = pybind11;

namespace {

using fastmaml::Index;
using fastmaml::Status;
using Address = std::uintptr_t;

template <class P>
P* at(Address address) {
  return reinterpret_cast<P*>(address);
}

// x, y, weights, samples a task; absent weights are address 0
using SamplesTuple = std::tuple<Address, Address, Address, Index>;

template <class T>
fastmaml::Samples<T> samples(const SamplesTuple& from, fastmaml::Loss loss) {
  fastmaml::Samples<T> to;
  to.x = at<const T>(std::get<0>(from));
  if (loss != fastmaml::Loss::cross_entropy) to.values = at<const T>(std::get<1>(from));
  else to.labels = at<const std::int64_t>(std::get<1>(from));
  to.weights = at<const T>(std::get<2>(from));
  to.n = std::get<3>(from);
  return to;
}

void require(bool condition, const char* what) {
  if (!condition) throw std::invalid_argument(what);
}

template <class T>
void check(const fastmaml::Request<T>& request) {
  require(request.tasks >= 1, "tasks must be at least 1");
  require(request.steps >= 0, "steps must be at least 0");
  require(request.threads >= 1, "threads must be at least 1");
  require(request.support.n >= 1 && request.support.x, "support.x needs at least one sample a task");
  require(request.parameters, "parameters must not be null");
}

// None when all is well, else (problem, "support" | "query", task, sample, value).
py::object report(const Status& status) {
  if (status.problem == fastmaml::Problem::none) return py::none();
  const char* problem = status.problem == fastmaml::Problem::no_weight ? "no_weight" : "label_out_of_range";
  return py::make_tuple(problem, status.query ? "query" : "support", status.task, status.sample, status.value);
}

template <class Run>
py::object without_gil(Run run) {
  Status status;
  {
    py::gil_scoped_release release;
    status = run();
  }
  return report(status);
}

fastmaml::Layer make_layer(const std::string& kind, Index in, Index out, Index weight, Index bias, double eps) {
  fastmaml::Layer layer;
  if (kind == "linear") layer.kind = fastmaml::Kind::linear;
  else if (kind == "batch_norm") layer.kind = fastmaml::Kind::batch_norm;
  else if (kind == "tanh") layer.kind = fastmaml::Kind::tanh;
  else if (kind == "relu") layer.kind = fastmaml::Kind::relu;
  else if (kind == "append") layer.kind = fastmaml::Kind::append;
  else if (kind == "conv") layer.kind = fastmaml::Kind::conv;
  else if (kind == "max_pool") layer.kind = fastmaml::Kind::max_pool;
  else if (kind == "spatial_mean") layer.kind = fastmaml::Kind::spatial_mean;
  else throw std::invalid_argument("unknown layer kind '" + kind + "'");
  require(in >= 1 && out >= 1, "layer widths must be at least 1");
  layer.in = in;
  layer.out = out;
  layer.weight = weight;
  layer.bias = bias;
  layer.eps = eps;
  return layer;
}

fastmaml::Loss loss_named(const std::string& name) {
  if (name == "mse") return fastmaml::Loss::mse;
  if (name == "cross_entropy") return fastmaml::Loss::cross_entropy;
  if (name == "gaussian") return fastmaml::Loss::gaussian;
  require(name == "categorical", "loss must be 'mse', 'cross_entropy', 'gaussian' or 'categorical'");
  return fastmaml::Loss::categorical;
}

using LayerTuple = std::tuple<std::string, Index, Index, Index, Index, double>;

// Of a layer on images: sizes in and out, kernel, stride and padding, each y then x. Of another: nothing.
using Geometry = std::vector<Index>;

void set_geometry(fastmaml::Layer& layer, const Geometry& geometry) {
  if (geometry.empty()) return;
  require(geometry.size() == 10, "the geometry of a layer is 10 numbers, or none");
  fastmaml::Window& w = layer.window;
  Index* const to[] = {layer.in_size, layer.out_size, w.kernel, w.stride, w.pad};
  for (std::size_t i = 0; i < geometry.size(); ++i) to[i / 2][i % 2] = geometry[i];
  layer.image = true;
  for (int axis = 0; axis < 2; ++axis) {
    require(layer.in_size[axis] >= 1 && layer.out_size[axis] >= 1, "images need at least one pixel");
    require(w.kernel[axis] >= 1 && w.stride[axis] >= 1 && w.pad[axis] >= 0, "a window must have a size and a stride");
    require(w.pad[axis] < w.kernel[axis], "padding must be smaller than the kernel");
    const Index reach = (layer.out_size[axis] - 1) * w.stride[axis] + w.kernel[axis];
    const bool windowed = layer.kind == fastmaml::Kind::conv || layer.kind == fastmaml::Kind::max_pool;
    require(!windowed || reach <= layer.in_size[axis] + 2 * w.pad[axis], "a window reaches beyond the image");
  }
  require(w.kernel[0] * w.kernel[1] <= 225, "windows have at most 225 taps");
}

// Max-pooling without overlap is fused into the batch norm before it.
bool fuse_pool(fastmaml::Layer& before, const fastmaml::Layer& layer) {
  const fastmaml::Window& w = layer.window;
  const bool apart = w.kernel[0] == w.stride[0] && w.kernel[1] == w.stride[1] && w.pad[0] + w.pad[1] == 0;
  if (before.kind != fastmaml::Kind::batch_norm || !before.image || before.pool || !apart) return false;
  before.pool = true;
  before.window = w;
  for (int axis = 0; axis < 2; ++axis) before.out_size[axis] = layer.out_size[axis];
  return true;
}

// A linear layer after an image takes all its pixels.
void flatten(const fastmaml::Layer& before, fastmaml::Layer& layer) {
  require(layer.kind == fastmaml::Kind::linear, "only a linear layer may follow a flattened image");
  layer.channels = before.out;
  layer.pixels = before.out_size[0] * before.out_size[1];
  for (int axis = 0; axis < 2; ++axis) layer.in_size[axis] = before.out_size[axis];
  require(layer.in == layer.channels * layer.pixels, "layer widths do not chain");
}

// On its way back a convolution needs zeros around the adjoint of its output, for which the rows of a linear layer have
// no room: a layer between them that changes nothing takes it there.
void insert_copy(std::vector<fastmaml::Layer>& layers) {
  fastmaml::Layer copy;
  const fastmaml::Layer& before = layers.back();
  copy.kind = fastmaml::Kind::relu;
  copy.image = true;
  copy.in = copy.out = before.out;
  copy.input_relu = before.relu;
  for (int axis = 0; axis < 2; ++axis) copy.in_size[axis] = copy.out_size[axis] = before.out_size[axis];
  layers.push_back(copy);
}

Index weights_of(const fastmaml::Layer& layer) {
  if (layer.kind == fastmaml::Kind::linear) return layer.in * layer.out;
  const bool conv = layer.kind == fastmaml::Kind::conv;
  return conv ? layer.in * layer.out * layer.window.kernel[0] * layer.window.kernel[1] : layer.out;
}

void chain(const fastmaml::Layer& before, fastmaml::Layer& layer) {
  require(before.image || !layer.image, "a layer on images follows one on rows");
  if (before.image && !layer.image) return flatten(before, layer);
  require(before.out == layer.in, "layer widths do not chain");
  for (int axis = 0; axis < 2; ++axis)
    require(!layer.image || before.out_size[axis] == layer.in_size[axis], "image sizes do not chain");
}

// A ReLU is fused into the layer before it; it stands alone only in front.
fastmaml::Model make_model(const std::vector<LayerTuple>& tuples, const std::string& loss,
                           const std::vector<Index>& counts, const std::vector<Geometry>& geometry) {
  fastmaml::Model model;
  const Index num_parameters = std::accumulate(counts.begin(), counts.end(), Index{0});
  model.counts = counts;
  require(!tuples.empty(), "a network needs at least one layer");
  model.loss = loss_named(loss);
  model.num_parameters = num_parameters;
  require(geometry.empty() || geometry.size() == tuples.size(), "there must be one geometry for each layer");
  for (std::size_t i = 0; i < tuples.size(); ++i) {
    fastmaml::Layer layer = std::apply(make_layer, tuples[i]);
    if (!geometry.empty()) set_geometry(layer, geometry[i]);
    require(layer.image || layer.kind < fastmaml::Kind::conv, "a layer on images needs a geometry");
    const bool rows = layer.kind == fastmaml::Kind::linear;
    if (rows && !model.layers.empty() && model.layers.back().kind == fastmaml::Kind::conv) insert_copy(model.layers);
    if (!model.layers.empty()) chain(model.layers.back(), layer);
    if (layer.kind == fastmaml::Kind::max_pool && !model.layers.empty() && fuse_pool(model.layers.back(), layer))
      continue;
    if (layer.kind == fastmaml::Kind::relu && !model.layers.empty()) {
      model.layers.back().relu = true;
      continue;
    }
    layer.relu = layer.kind == fastmaml::Kind::relu;
    layer.input_relu = !model.layers.empty() && model.layers.back().relu;
    const bool appends = layer.kind == fastmaml::Kind::append;
    const Index end = std::max(layer.weight + weights_of(layer), layer.bias + layer.out - (appends ? layer.in : 0));
    require((layer.weight < 0 && layer.bias < 0) || end <= num_parameters, "a parameter lies beyond the vector");
    const bool needs = layer.kind == fastmaml::Kind::linear || layer.kind == fastmaml::Kind::conv;
    require(!needs || layer.weight >= 0, "a linear layer or a convolution needs a weight");
    require(!appends || (layer.bias >= 0 && layer.out > layer.in), "an appending layer needs parameters");
    require(!appends || i + 1 == tuples.size(), "an appending layer must be the last");
    model.layers.push_back(layer);
  }
  const fastmaml::Layer& last = model.layers.back();
  require(!last.image || last.kind == fastmaml::Kind::spatial_mean, "a network ends in rows or in a spatial mean");
  require(model.loss != fastmaml::Loss::gaussian || last.out % 2 == 0, "'gaussian' needs an even number of outputs");
  return model;
}

template <class T>
fastmaml::Request<T> meta_request(const fastmaml::Model& model, const T* parameters, Address inner_lr, bool uniform,
                                  const SamplesTuple& support, const SamplesTuple& query, Index tasks, Index steps,
                                  bool second_order, int threads) {
  fastmaml::Request<T> request;
  request.support = samples<T>(support, model.loss);
  request.query = samples<T>(query, model.loss);
  request.tasks = tasks;
  request.steps = steps;
  request.threads = threads;
  request.second_order = second_order;
  request.parameters = parameters;
  request.inner_lr = at<const T>(inner_lr);
  request.uniform_inner_lr = uniform;
  check(request);
  require(request.inner_lr, "inner_lr must not be null");
  require(request.query.n >= 1 && request.query.x, "query.x needs at least one sample a task");
  return request;
}

template <class T>
py::object meta_gradient(const fastmaml::Model& model, Address parameters, Address inner_lr, bool uniform,
                         const SamplesTuple& support, const SamplesTuple& query, Index tasks, Index steps,
                         bool second_order, int threads, Address losses, Address gradient, Address lr_gradient,
                         Address outputs) {
  const auto request = meta_request(model, at<const T>(parameters), inner_lr, uniform, support, query, tasks, steps,
                                    second_order, threads);
  const fastmaml::MetaGradientOutputs<T> to{at<T>(losses), at<T>(gradient), at<T>(lr_gradient), at<T>(outputs)};
  return without_gil([&] { return fastmaml::meta_gradient(model, request, to); });
}

template <class P>
std::vector<P*> pointers(const std::vector<Address>& addresses, const fastmaml::Model& model) {
  require(addresses.size() == model.counts.size(), "there must be one address for each parameter");
  std::vector<P*> to;
  for (Address address : addresses) to.push_back(at<P>(address));
  return to;
}

// meta_gradient from parameters, and into gradients, that are tensors of their own: [mean query loss, whether the
// gradient is finite], or the problem. Gradients are left alone where the loss is not finite. Gradient 0: not wanted.
template <class T>
py::object accumulate(const fastmaml::Model& model, const std::vector<Address>& parameters,
                      const std::vector<Address>& gradients, bool add, Address inner_lr, bool uniform,
                      const SamplesTuple& support, const SamplesTuple& query, Index tasks, Index steps,
                      bool second_order, int threads, Address mean, Address losses, Address outputs) {
  const std::vector<const T*> from = pointers<const T>(parameters, model);
  const std::vector<T*> into = pointers<T>(gradients, model);
  for (const T* parameter : from) require(parameter, "parameters must not be null");
  const fastmaml::Scratch scratch(static_cast<std::size_t>(2 * model.num_parameters) * sizeof(T));
  T* flat = static_cast<T*>(scratch.data());
  T* gradient = flat + model.num_parameters;
  const auto request =
      meta_request<T>(model, flat, inner_lr, uniform, support, query, tasks, steps, second_order, threads);
  double loss = 0;
  bool finite = false;
  py::object problem = without_gil([&] {
    fastmaml::gather(fastmaml::Pieces<const T>{from, model.counts}, flat);
    const Status status =
        fastmaml::meta_gradient<T>(model, request, {at<T>(losses), gradient, nullptr, at<T>(outputs)});
    if (status.problem != fastmaml::Problem::none) return status;
    for (Index t = 0; t < tasks; ++t) loss += static_cast<double>(at<T>(losses)[t]);
    loss = *at<T>(mean) = static_cast<T>(loss / static_cast<double>(tasks));
    finite = std::isfinite(loss) && fastmaml::all_finite(gradient, model.num_parameters);
    if (std::isfinite(loss)) fastmaml::scatter(gradient, fastmaml::Pieces<T>{into, model.counts}, add);
    return status;
  });
  return problem.is_none() ? py::make_tuple(loss, finite) : problem;
}

template <class T>
py::object adapt(const fastmaml::Model& model, Address parameters, bool shared, Address inner_lr,
                 const SamplesTuple& support, Index tasks, Index steps, int threads, Address fast, Address losses) {
  fastmaml::Request<T> request;
  request.support = samples<T>(support, model.loss);
  request.tasks = tasks;
  request.steps = steps;
  request.threads = threads;
  request.parameters = at<const T>(parameters);
  request.shared = shared;
  request.inner_lr = at<const T>(inner_lr);
  check(request);
  return without_gil([&] { return fastmaml::adapt(model, request, at<T>(fast), at<T>(losses)); });
}

template <class T>
py::object predict(const fastmaml::Model& model, Address fast, Address x, Index tasks, Index n, int threads,
                   Address outputs) {
  fastmaml::Request<T> request;
  request.support.x = at<const T>(x);
  request.support.n = n;
  request.tasks = tasks;
  request.threads = threads;
  request.parameters = at<const T>(fast);
  request.shared = false;
  check(request);
  return without_gil([&] { return fastmaml::predict(model, request, at<T>(outputs)); });
}

template <class T>
py::object hvp(const fastmaml::Model& model, Address fast, const SamplesTuple& support, Address vectors, Index tasks,
               int threads, Address products) {
  fastmaml::Request<T> request;
  request.support = samples<T>(support, model.loss);
  request.tasks = tasks;
  request.threads = threads;
  request.parameters = at<const T>(fast);
  request.shared = false;
  request.vectors = at<const T>(vectors);
  check(request);
  return without_gil([&] { return fastmaml::hvp(model, request, at<T>(products)); });
}

// What a benchmark needs to know of a layer, other layers fused into it included.
py::dict describe(const fastmaml::Layer& layer) {
  static const char* const kinds[] = {"linear", "batch_norm", "tanh",         "relu",
                                      "conv",   "max_pool",   "spatial_mean", "append"};
  const auto pair = [](const Index* values) { return py::make_tuple(values[0], values[1]); };
  const fastmaml::Window& w = layer.window;
  return py::dict(py::arg("kind") = kinds[static_cast<int>(layer.kind)], py::arg("inputs") = layer.in,
                  py::arg("outputs") = layer.out, py::arg("image") = layer.image,
                  py::arg("in_size") = pair(layer.in_size), py::arg("out_size") = pair(layer.out_size),
                  py::arg("kernel") = pair(w.kernel), py::arg("stride") = pair(w.stride),
                  py::arg("padding") = pair(w.pad), py::arg("relu") = layer.relu, py::arg("pool") = layer.pool);
}

py::list layers(const fastmaml::Model& model) {
  py::list all;
  for (const fastmaml::Layer& layer : model.layers) all.append(describe(layer));
  return all;
}

py::list profile() {
  py::list all;
  for (const fastmaml::PassTime& t : fastmaml::profile())
    all.append(py::make_tuple(t.pass, t.layer, t.calls, t.samples, t.seconds));
  return all;
}

// A problem as `report` tells it, or the linearised samples.
template <class T>
py::object linearise(const fastmaml::Model& model, Address parameters, bool shared, const SamplesTuple& support,
                     Index tasks, int threads, Address gradients) {
  fastmaml::Request<T> request;
  request.support = samples<T>(support, model.loss);
  request.tasks = tasks;
  request.threads = threads;
  request.parameters = at<const T>(parameters);
  request.shared = shared;
  check(request);
  std::unique_ptr<fastmaml::Linearised<T>> kept;
  {
    py::gil_scoped_release release;
    kept = std::make_unique<fastmaml::Linearised<T>>(model, request, at<T>(gradients));
  }
  return kept->status().problem == fastmaml::Problem::none ? py::cast(std::move(kept)) : report(kept->status());
}

template <class T>
void product(fastmaml::Linearised<T>& kept, Address vectors, bool shared, int threads, Address products) {
  require(threads >= 1, "threads must be at least 1");
  py::gil_scoped_release release;
  kept.product(at<const T>(vectors), shared, threads, at<T>(products));
}

template <class T>
void bind_verbs(py::module_& module, py::class_<fastmaml::Model>& model, const std::string& suffix) {
  py::class_<fastmaml::Linearised<T>>(module, ("Linearised_" + suffix).c_str()).def("product", &product<T>);
  model.def(("meta_gradient_" + suffix).c_str(), &meta_gradient<T>);
  model.def(("accumulate_" + suffix).c_str(), &accumulate<T>);
  model.def(("adapt_" + suffix).c_str(), &adapt<T>);
  model.def(("predict_" + suffix).c_str(), &predict<T>);
  model.def(("hvp_" + suffix).c_str(), &hvp<T>);
  model.def(("linearise_" + suffix).c_str(), &linearise<T>);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "fastmaml's C++ core: the batched inner loop on CPUs";
  py::class_<fastmaml::Model> model(module, "Model");
  model.def(py::init(&make_model), py::arg("layers"), py::arg("loss"), py::arg("counts"),
            py::arg("geometry") = std::vector<Geometry>());
  model.def("layers", &layers, "The layers as they run, from first to last.");
  bind_verbs<float>(module, model, "float32");
  bind_verbs<double>(module, model, "float64");
  module.def("isa", [] { return std::string(fastmaml::current_isa().name); }, "The instruction set in use.");
  module.def("supported_isas", &fastmaml::supported_isas, "Those this processor has, slowest first.");
  module.def("set_isa", &fastmaml::set_isa, py::arg("name"));
  module.def("set_poison", &fastmaml::set_poison, py::arg("on"), "Fill scratch memory with NaN before each call.");
  module.def("set_profiling", &fastmaml::set_profiling, py::arg("on"), "Time every pass over every layer, from now.");
  module.def("profile", &profile, "(pass, layer or -1, calls, samples, seconds of all threads) of each.");
  fastmaml::current_isa();  // an unknown FASTMAML_ISA is refused here, at import
}
