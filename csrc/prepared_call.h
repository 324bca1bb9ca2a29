// A meta-gradient from a network's parameters into their .grad, on meta-batches of one form; part of bindings.cpp.
// What stays the same from call to call is worked out once, and what Python has to be asked is asked from here: of a
// small network the questions would otherwise take longer than the answer.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "core.h"
#include "model.h"
#include "pieces.h"
#include "report.h"
#include "scratch.h"
#include "tensor_form.h"

namespace fastmaml {

template <class T>
class PreparedCall {
  using handle = pybind11::handle;
  using object = pybind11::object;
  using tuple = pybind11::tuple;
  using Form = std::optional<TensorForm>;  // none: of what is not there

 public:
  // exchange: DLPack's table of torch.Tensor, or None. empty_like: PyTorch's. parameters: of each, itself, a tensor of
  // its form, and whether it gets a gradient. inner_lr: the address of [P], which the caller keeps alive, as it does
  // the model. samples: a tensor of the form of x, y and weights (or None) of support, then query. results: such of the
  // mean loss [], losses [T] and outputs [T, M, ...].
  PreparedCall(const Model& model, handle exchange, object empty_like, const tuple& parameters, std::uintptr_t inner_lr,
               bool uniform, const tuple& samples, const tuple& results)
      : model_(model), empty_like_(std::move(empty_like)) {
    require(parameters.size() == model.counts.size(), "there must be one parameter for each of the model's");
    require(samples.size() == 6 && results.size() == 3, "there must be six tensors of samples and three of results");
    require(inner_lr, "inner_lr must not be null");
    const DlExchange::View view = DlExchange::view_of(exchange);
    for (handle each : parameters) {
      const auto given = each.cast<tuple>();
      slots_.push_back({given[0], TensorForm(given[1], view), given[2].cast<bool>()});
    }
    for (handle each : samples) samples_.push_back(each.is_none() ? Form() : TensorForm(each, view));
    for (handle each : results) results_.push_back({each.cast<object>(), TensorForm(each, view)});
    const auto x = samples[0].attr("shape").cast<tuple>(), query_x = samples[3].attr("shape").cast<tuple>();
    request_.tasks = x[0].cast<Index>();
    request_.support.n = x[1].cast<Index>();
    request_.query.n = query_x[1].cast<Index>();
    request_.inner_lr = reinterpret_cast<const T*>(inner_lr);
    request_.uniform_inner_lr = uniform;
  }

  // Whether samples are of the form that was prepared for.
  bool takes(const tuple& samples) const {
    Request<T> request;
    return locate(samples, request);
  }

  // The mean query loss, whether the gradient is finite, where it is not the losses [T], and the outputs where wanted;
  // else None.
  // The gradient goes into the parameters' .grad, added to what is there or over it; new ones are made where none are.
  // Instead: what `report` tells; or None, with nothing changed, where a tensor is not of the form prepared for, a hook
  // waits for a gradient, only some parameters have gradients, or the loss is not finite.
  object accumulate(const tuple& samples, Index steps, bool second_order, int threads, bool add, bool outputs) {
    require(steps >= 1, "steps must be at least 1");
    require(threads >= 1, "threads must be at least 1");
    Request<T> request = request_;
    request.steps = steps;
    request.second_order = second_order;
    request.threads = threads;
    Places places;
    if (!locate(samples, request) || !locate(places)) return pybind11::none();
    const object mean = made(results_[0].example);
    const object predictions = outputs ? made(results_[2].example) : pybind11::none();
    Answer answer;
    answer.mean = address(0, mean);
    answer.outputs = outputs ? address(2, predictions) : nullptr;
    answer.losses.resize(static_cast<std::size_t>(request.tasks));
    object problem = compute(request, places, add, answer);
    if (!problem.is_none()) return problem;
    seconds_ = answer.seconds;
    if (!std::isfinite(*answer.mean)) return pybind11::none();
    set_fresh(places);
    return pybind11::make_tuple(mean, answer.finite, answer.finite ? pybind11::none() : losses(answer), predictions);
  }

  // Seconds that the core took in the last call; a benchmark takes them from the whole.
  double seconds() const { return seconds_; }

 private:
  struct Slot {
    object parameter;
    TensorForm form;
    bool learned;
  };
  struct Kind {
    object example;
    TensorForm form;
  };
  // Of each parameter. A gradient that is not wanted is None, at null.
  struct Places {
    std::vector<const T*> parameters;
    std::vector<T*> gradients;
    std::vector<object> tensors;  // of the gradients
    bool fresh = false;           // they have been made for this call
  };
  struct Answer {
    T *mean, *outputs;
    std::vector<T> losses;
    bool finite = false;
    double seconds = 0;
  };

  bool locate(const tuple& samples, Request<T>& request) const {
    void* at[6];
    if (samples.size() != samples_.size()) return false;
    for (std::size_t i = 0; i < samples_.size(); ++i) {
      PyObject* tensor = PyTuple_GET_ITEM(samples.ptr(), i);
      at[i] = samples_[i] ? samples_[i]->address(tensor) : nullptr;
      if (samples_[i] ? !at[i] : tensor != Py_None) return false;
    }
    point(request.support, at);
    point(request.query, at + 3);
    return true;
  }

  void point(Samples<T>& samples, void* const* at) const {
    samples.x = static_cast<const T*>(at[0]);
    if (model_.loss != Loss::cross_entropy) samples.values = static_cast<const T*>(at[1]);
    else samples.labels = static_cast<const std::int64_t*>(at[1]);
    samples.weights = static_cast<const T*>(at[2]);
  }

  bool locate(Places& places) const {
    std::size_t there = 0, learned = 0;
    places.parameters.reserve(slots_.size());
    places.gradients.reserve(slots_.size());
    places.tensors.reserve(slots_.size());
    for (const Slot& slot : slots_) {
      places.parameters.push_back(static_cast<const T*>(slot.form.address(slot.parameter.ptr())));
      if (!places.parameters.back() || (slot.learned && is_hooked(slot.parameter))) return false;
      places.tensors.push_back(slot.learned ? get(slot.parameter, names().grad) : pybind11::none());
      there += !places.tensors.back().is_none();
      learned += slot.learned;
    }
    if (there != 0 && there != learned) return false;
    places.fresh = there == 0;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      const Slot& slot = slots_[i];
      object& gradient = places.tensors[i];
      if (slot.learned && places.fresh) gradient = made(slot.parameter);
      places.gradients.push_back(slot.learned ? static_cast<T*>(slot.form.address(gradient.ptr())) : nullptr);
      if (slot.learned && !places.gradients.back()) return false;
    }
    return true;
  }

  object compute(const Request<T>& given, const Places& places, bool add, Answer& answer) {
    const Scratch scratch(static_cast<std::size_t>(2 * model_.num_parameters) * sizeof(T));
    T* const flat = static_cast<T*>(scratch.data());
    T* const gradient = flat + model_.num_parameters;
    Request<T> request = given;
    request.parameters = flat;
    return without_gil([&] {
      const auto start = std::chrono::steady_clock::now();
      gather(Pieces<const T>{places.parameters, model_.counts}, flat);
      const Status status =
          meta_gradient<T>(model_, request, {answer.losses.data(), gradient, nullptr, answer.outputs});
      if (status.problem != Problem::none) return status;
      double sum = 0;
      for (T loss : answer.losses) sum += static_cast<double>(loss);
      *answer.mean = static_cast<T>(sum / static_cast<double>(request.tasks));
      const bool counts = std::isfinite(*answer.mean);
      answer.finite = counts && all_finite(gradient, model_.num_parameters);
      if (counts) scatter(gradient, Pieces<T>{places.gradients, model_.counts}, add && !places.fresh);
      answer.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      return status;
    });
  }

  void set_fresh(const Places& places) const {
    for (std::size_t i = 0; places.fresh && i < slots_.size(); ++i)
      if (slots_[i].learned && PyObject_SetAttr(slots_[i].parameter.ptr(), names().grad, places.tensors[i].ptr()))
        throw pybind11::error_already_set();
  }

  object losses(const Answer& answer) const {
    object tensor = made(results_[1].example);
    std::copy(answer.losses.begin(), answer.losses.end(), address(1, tensor));
    return tensor;
  }

  object made(const object& like) const {
    PyObject* const arguments[] = {like.ptr()};
    PyObject* const tensor = PyObject_Vectorcall(empty_like_.ptr(), arguments, 1, nullptr);
    if (!tensor) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<object>(tensor);
  }

  T* address(int result, const object& tensor) const {
    void* at = results_[result].form.address(tensor.ptr());
    require(at, "PyTorch has made a tensor of another form than asked for");
    return static_cast<T*>(at);
  }

  static object get(const object& from, PyObject* name) {
    PyObject* const value = PyObject_GetAttr(from.ptr(), name);
    if (!value) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<object>(value);
  }

  static bool is_hooked(const object& parameter) {
    for (PyObject* name : {names().hooks, names().post_hooks}) {
      const object hooks = get(parameter, name);
      if (!hooks.is_none() && PyObject_IsTrue(hooks.ptr()) != 0) return true;
    }
    return false;
  }

  struct Names {
    PyObject* grad = PyUnicode_InternFromString("grad");
    PyObject* hooks = PyUnicode_InternFromString("_backward_hooks");
    PyObject* post_hooks = PyUnicode_InternFromString("_post_accumulate_grad_hooks");
  };
  static const Names& names() {
    static const Names instance;  // for as long as the process lives
    return instance;
  }

  const Model& model_;
  object empty_like_;
  std::vector<Slot> slots_;
  std::vector<Form> samples_;
  std::vector<Kind> results_;
  Request<T> request_;
  double seconds_ = 0;
};

}  // namespace fastmaml
