// Python's side of the core: raw addresses and sizes, which fastmaml/engines/cpu.py has checked.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "core.h"
#include "dispatch.h"

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

// A ReLU is fused into the layer before it; it stands alone only in front.
fastmaml::Model make_model(const std::vector<LayerTuple>& tuples, const std::string& loss, Index num_parameters) {
  fastmaml::Model model;
  require(!tuples.empty(), "a network needs at least one layer");
  model.loss = loss_named(loss);
  model.num_parameters = num_parameters;
  for (const LayerTuple& tuple : tuples) {
    fastmaml::Layer layer = std::apply(make_layer, tuple);
    if (!model.layers.empty()) require(model.layers.back().out == layer.in, "layer widths do not chain");
    if (layer.kind == fastmaml::Kind::relu && !model.layers.empty()) {
      model.layers.back().relu = true;
      continue;
    }
    layer.relu = layer.kind == fastmaml::Kind::relu;
    layer.input_relu = !model.layers.empty() && model.layers.back().relu;
    const Index end = std::max(layer.weight + (layer.kind == fastmaml::Kind::linear ? layer.in * layer.out : layer.out),
                               layer.bias + layer.out - (layer.kind == fastmaml::Kind::append ? layer.in : 0));
    require((layer.weight < 0 && layer.bias < 0) || end <= num_parameters, "a parameter lies beyond the vector");
    require(layer.kind != fastmaml::Kind::linear || layer.weight >= 0, "a linear layer needs a weight");
    require(layer.kind != fastmaml::Kind::append || (layer.bias >= 0 && layer.out > layer.in),
            "an appending layer needs parameters");
    model.layers.push_back(layer);
  }
  require(model.loss != fastmaml::Loss::gaussian || model.layers.back().out % 2 == 0,
          "loss 'gaussian' needs an even number of outputs");
  return model;
}

template <class T>
py::object meta_gradient(const fastmaml::Model& model, Address parameters, Address inner_lr, bool uniform,
                         const SamplesTuple& support, const SamplesTuple& query, Index tasks, Index steps,
                         bool second_order, int threads, Address losses, Address gradient, Address lr_gradient,
                         Address outputs) {
  fastmaml::Request<T> request;
  request.support = samples<T>(support, model.loss);
  request.query = samples<T>(query, model.loss);
  request.tasks = tasks;
  request.steps = steps;
  request.threads = threads;
  request.second_order = second_order;
  request.parameters = at<const T>(parameters);
  request.inner_lr = at<const T>(inner_lr);
  request.uniform_inner_lr = uniform;
  check(request);
  require(request.inner_lr, "inner_lr must not be null");
  require(request.query.n >= 1 && request.query.x, "query.x needs at least one sample a task");
  const fastmaml::MetaGradientOutputs<T> to{at<T>(losses), at<T>(gradient), at<T>(lr_gradient), at<T>(outputs)};
  return without_gil([&] { return fastmaml::meta_gradient(model, request, to); });
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

template <class T>
void bind_verbs(py::class_<fastmaml::Model>& model, const std::string& suffix) {
  model.def(("meta_gradient_" + suffix).c_str(), &meta_gradient<T>);
  model.def(("adapt_" + suffix).c_str(), &adapt<T>);
  model.def(("predict_" + suffix).c_str(), &predict<T>);
  model.def(("hvp_" + suffix).c_str(), &hvp<T>);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "fastmaml's C++ core: the batched inner loop on CPUs";
  py::class_<fastmaml::Model> model(module, "Model");
  model.def(py::init(&make_model), py::arg("layers"), py::arg("loss"), py::arg("num_parameters"));
  bind_verbs<float>(model, "float32");
  bind_verbs<double>(model, "float64");
  module.def("isa", [] { return std::string(fastmaml::current_isa().name); }, "The instruction set in use.");
  module.def("supported_isas", &fastmaml::supported_isas, "Those this processor has, slowest first.");
  module.def("set_isa", &fastmaml::set_isa, py::arg("name"));
  module.def("set_poison", &fastmaml::set_poison, py::arg("on"), "Fill scratch memory with NaN before each call.");
  fastmaml::current_isa();  // an unknown FASTMAML_ISA is refused here, at import
}
