// Python's side of the core: raw addresses and sizes, which fastmaml/engines/cpu/engine.py has checked; prepared_call.h
// checks tensors by itself.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "host/core.h"
#include "host/linearised.h"
#include "host/model.h"
#include "machine/dispatch.h"
#include "machine/interrupt.h"
#include "machine/profile.h"
#include "python/collected.h"
#include "python/errors.h"
#include "python/model_watch.h"
#include "python/pending_signals.h"
#include "python/prepared_call.h"

namespace py = pybind11;

namespace {

using fastmaml::Index;
using fastmaml::report;
using fastmaml::require;
using fastmaml::without_gil;
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

template <class T>
void check_targets(const fastmaml::Samples<T>& samples) {
  require(samples.values || samples.labels, "y must not be null");
}

template <class T>
void check(const fastmaml::Request<T>& request) {
  require(request.tasks >= 1, "tasks must be at least 1");
  require(request.steps >= 0, "steps must be at least 0");
  require(request.threads >= 1, "threads must be at least 1");
  require(request.support.n >= 1 && request.support.x, "support.x needs at least one sample a task");
  require(request.parameters, "parameters must not be null");
}

template <class T>
fastmaml::Request<T> meta_request(const fastmaml::Model& model, const T* parameters, Address inner_lr, bool uniform,
                                  const SamplesTuple& support, const SamplesTuple& query, Index tasks, Index steps,
                                  bool second_order, int threads, Address task_scales) {
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
  request.task_scales = at<const T>(task_scales);
  check(request);
  require(request.inner_lr, "inner_lr must not be null");
  require(request.query.n >= 1 && request.query.x, "query.x needs at least one sample a task");
  check_targets(request.support);
  check_targets(request.query);
  return request;
}

template <class T>
py::object meta_gradient(const fastmaml::Model& model, Address parameters, Address inner_lr, bool uniform,
                         const SamplesTuple& support, const SamplesTuple& query, Index tasks, Index steps,
                         bool second_order, int threads, Address task_scales, Address losses, Address gradient,
                         Address lr_gradient, Address outputs) {
  const auto request = meta_request(model, at<const T>(parameters), inner_lr, uniform, support, query, tasks, steps,
                                    second_order, threads, task_scales);
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
  check_targets(request.support);
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
  check_targets(request.support);
  return without_gil([&] { return fastmaml::hvp(model, request, at<T>(products)); });
}

// What a benchmark needs to know of a layer, other layers fused into it included.
py::dict describe(const fastmaml::Layer& layer) {
  static const char* const kinds[] = {"linear", "batch_norm", "tanh",     "relu",
                                      "append", "conv",       "max_pool", "spatial_mean"};
  const auto pair = [](const Index* values) { return py::make_tuple(values[0], values[1]); };
  const fastmaml::Window& w = layer.window;
  return py::dict(py::arg("kind") = kinds[static_cast<int>(layer.kind)], py::arg("inputs") = layer.in,
                  py::arg("outputs") = layer.out, py::arg("image") = layer.image,
                  py::arg("in_size") = pair(layer.in_size), py::arg("out_size") = pair(layer.out_size),
                  py::arg("kernel") = pair(w.kernel), py::arg("stride") = pair(w.stride),
                  py::arg("padding") = pair(w.pad), py::arg("relu") = layer.relu, py::arg("pool") = layer.pool,
                  py::arg("stem") = layer.stem);
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

void set_form(const std::string& name) {
  using fastmaml::Form;
  const std::pair<const char*, Form> forms[] = {
      {"auto", Form::automatic}, {"copies", Form::copies}, {"lanes", Form::lanes}, {"products", Form::products}};
  for (const auto& [known, form] : forms)
    if (name == known) return fastmaml::set_form(form);
  require(false, "form: allowed are 'auto', 'copies', 'lanes' and 'products'");
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
  check_targets(request.support);
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
void bind_prepared_call(py::module_& module, const std::string& suffix) {
  using Call = fastmaml::PreparedCall<T>;
  using fastmaml::Model;
  py::class_<Call> call(module, ("PreparedCall_" + suffix).c_str(), fastmaml::collected<Call>());
  call.def(py::init<const Model&, py::handle, py::object, const py::tuple&, Address, bool, const py::tuple&,
                    const py::tuple&>(),
           py::keep_alive<1, 2>());
  call.def("takes", &Call::takes);
  call.def("accumulate", &Call::accumulate);
  call.def("meta_gradient", &Call::meta_gradient);
  call.def("pieces", &Call::pieces);
  call.def_property_readonly("seconds", &Call::seconds);
}

template <class T>
void bind_verbs(py::module_& module, py::class_<fastmaml::Model>& model, const std::string& suffix) {
  py::class_<fastmaml::Linearised<T>>(module, ("Linearised_" + suffix).c_str()).def("product", &product<T>);
  model.def(("meta_gradient_" + suffix).c_str(), &meta_gradient<T>);
  model.def(("adapt_" + suffix).c_str(), &adapt<T>);
  model.def(("predict_" + suffix).c_str(), &predict<T>);
  model.def(("hvp_" + suffix).c_str(), &hvp<T>);
  model.def(("linearise_" + suffix).c_str(), &linearise<T>);
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "fastmaml's C++ core: the batched inner loop on CPUs";
  py::class_<fastmaml::Model> model(module, "Model");
  model.def(py::init(&fastmaml::make_model), py::arg("layers"), py::arg("loss"), py::arg("counts"),
            py::arg("geometry") = std::vector<fastmaml::Geometry>());
  model.def("layers", &layers, "The layers as they run, from first to last.");
  bind_verbs<float>(module, model, "float32");
  bind_verbs<double>(module, model, "float64");
  py::class_<fastmaml::ModelWatch>(module, "ModelWatch", fastmaml::collected<fastmaml::ModelWatch>())
      .def(py::init<const py::list&, const py::list&, const py::list&, const py::list&, py::handle>())
      .def("changed", &fastmaml::ModelWatch::changed);
  bind_prepared_call<float>(module, "float32");
  bind_prepared_call<double>(module, "float64");
  module.def("isa", [] { return std::string(fastmaml::current_isa().name); }, "The instruction set in use.");
  module.def("supported_isas", &fastmaml::supported_isas, "Those this processor has, slowest first.");
  module.def("set_isa", &fastmaml::set_isa, py::arg("name"));
  module.def("set_poison", &fastmaml::set_poison, py::arg("on"), "Fill scratch memory with NaN before each call.");
  module.def("set_form", &set_form, py::arg("name"),
             "How meta-gradients are made: 'auto', 'copies', 'lanes', 'products'.");
  module.def("set_profiling", &fastmaml::set_profiling, py::arg("on"), "Time every pass over every layer, from now.");
  module.def("profile", &profile, "(pass, layer or -1, calls, samples, seconds of all threads) of each.");
  fastmaml::set_interruption(&fastmaml::run_signal_handlers);
  fastmaml::current_isa();  // an unknown FASTMAML_ISA is refused here, at import
}
