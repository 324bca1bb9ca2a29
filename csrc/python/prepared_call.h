// The meta-gradient of a network's parameters on meta-batches of one form, into their .grad or for autograd to put
// there; part of bindings.cpp. What stays the same from call to call is worked out once, and what Python has to be
// asked is asked from here: of a small network the questions would otherwise take longer than the answer.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "host/core.h"
#include "host/flat_parameters.h"
#include "host/model.h"
#include "machine/scratch.h"
#include "python/collected.h"
#include "python/errors.h"
#include "python/gradient.h"
#include "python/overlap.h"
#include "python/tensor_form.h"
#include "python/tensor_kind.h"

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
  // mean loss [], losses [T], outputs [T, M, ...] and gradient [P].
  PreparedCall(const Model& model, handle exchange, object empty_like, const tuple& parameters, std::uintptr_t inner_lr,
               bool uniform, const tuple& samples, const tuple& results)
      : model_(model) {
    require(parameters.size() == model.counts.size(), "there must be one parameter for each of the model's");
    require(samples.size() == 6 && results.size() == 4, "there must be six tensors of samples and four of results");
    require(inner_lr, "inner_lr must not be null");
    const DlExchange::View view = DlExchange::view_of(exchange);
    for (handle each : parameters) {
      const auto given = each.cast<tuple>();
      slots_.push_back({given[0], Kind(given[1], view, empty_like), given[2].cast<bool>()});
    }
    for (handle each : samples) samples_.push_back(each.is_none() ? Form() : TensorForm(each, view));
    for (handle each : results) results_.emplace_back(each.cast<object>(), view, empty_like);
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
  // Several threads may accumulate at once, in this call or others of the same parameters: no gradient is lost.
  object accumulate(const tuple& samples, Index steps, bool second_order, int threads, bool add, bool outputs) try {
    Request<T> request = asked(steps, second_order, threads);
    Places places;
    std::vector<const T*> parameters;
    if (!locate(samples, request) || !locate(parameters) || !locate(places)) return pybind11::none();
    object mean;
    const object predictions = outputs ? results_[kOutputs].made() : pybind11::none();
    const Scratch scratch(2 * gradient_bytes());
    T* const gradient = static_cast<T*>(scratch.data());
    request.parameters = gradient + model_.num_parameters;
    Answer answer(request, gradient);
    if (outputs) answer.outputs = results_[kOutputs].place(predictions);
    Meanwhile making([&] {
      mean = results_[kMean].made();
      answer.mean = results_[kMean].place(mean);
      if (places.fresh) make(places);
    });
    bool finite = false;
    object problem = compute(request, parameters, gradient + model_.num_parameters, making, answer, [&](bool sound) {
      if (!std::isfinite(*answer.mean)) return;
      finite = sound;
      if (places.fresh) fill(places, gradient);
    });
    if (!problem.is_none()) return problem;
    if (!std::isfinite(*answer.mean) || !put(places, gradient, add)) return pybind11::none();
    return pybind11::make_tuple(mean, finite, finite ? pybind11::none() : losses(answer), predictions);
  } catch (const MadeOtherwise&) {
    return pybind11::none();
  }

  // The mean query loss, the gradient [P], of which those parameters that get none have no meaning, and the losses [T]
  // and outputs where wanted; else None.
  // Instead: what `report` tells; or None, where a tensor is not of the form prepared for, or the loss is not finite.
  object meta_gradient(const tuple& samples, Index steps, bool second_order, int threads, bool details) try {
    Request<T> request = asked(steps, second_order, threads);
    std::vector<const T*> parameters;
    if (!locate(samples, request) || !locate(parameters)) return pybind11::none();
    object mean;
    const object gradient = results_[kGradient].made();
    const object predictions = details ? results_[kOutputs].made() : pybind11::none();
    const Scratch scratch(gradient_bytes());
    T* const flat = static_cast<T*>(scratch.data());
    request.parameters = flat;
    Answer answer(request, results_[kGradient].place(gradient));
    if (details) answer.outputs = results_[kOutputs].place(predictions);
    Meanwhile making([&] {
      mean = results_[kMean].made();
      answer.mean = results_[kMean].place(mean);
    });
    object problem = compute(request, parameters, flat, making, answer, [](bool) {});
    if (!problem.is_none()) return problem;
    if (!std::isfinite(*answer.mean)) return pybind11::none();
    return pybind11::make_tuple(mean, gradient, details ? losses(answer) : pybind11::none(), predictions);
  } catch (const MadeOtherwise&) {
    return pybind11::none();
  }

  // A gradient [P] times scale [], as a new tensor for each parameter that gets one; None where the two are no such
  // tensors.
  object pieces(handle gradient, handle scale) const try {
    if (results_.empty()) return pybind11::none();  // it has been cleared
    const T* const flat = results_[kGradient].address(gradient);
    const T* const times = results_[kMean].address(scale);
    if (!flat || !times) return pybind11::none();
    std::vector<T*> at;
    std::vector<object> made;
    for (const Slot& slot : slots_) {
      if (slot.learned) made.push_back(slot.kind.made());
      at.push_back(slot.learned ? slot.kind.place(made.back()) : nullptr);
    }
    {
      pybind11::gil_scoped_release release;
      scatter_times(*times, flat, Pieces<T>{at, model_.counts});
    }
    tuple all(made.size());
    for (std::size_t i = 0; i < made.size(); ++i) PyTuple_SET_ITEM(all.ptr(), i, made[i].release().ptr());
    return std::move(all);
  } catch (const MadeOtherwise&) {
    return pybind11::none();
  }

  // Seconds that the core took in the last call; a benchmark takes them from the whole.
  double seconds() const { return seconds_; }

  void visit(Visitor& visitor) const {
    for (const Slot& slot : slots_) {
      visitor(slot.parameter);
      slot.kind.visit(visitor);
    }
    for (const Form& form : samples_)
      if (form) form->visit(visitor);
    for (const Kind& kind : results_) kind.visit(visitor);
  }

  // It takes no samples any more.
  void clear() {
    const auto slots = std::exchange(slots_, {});
    const auto samples = std::exchange(samples_, {});
    const auto results = std::exchange(results_, {});
  }

 private:
  using Kind = TensorKind<T>;
  enum Result { kMean, kLosses, kOutputs, kGradient };
  struct Slot {
    object parameter;
    Kind kind;
    bool learned;
  };
  // Gradients, one of each parameter. One that is not wanted is None, at null.
  struct Places {
    std::vector<T*> gradients;
    std::vector<object> tensors;
    bool fresh = false;          // they are made for this call, while the core begins
    std::uint64_t puts = puts_;  // before they were looked at
  };
  struct Answer {
    Answer(const Request<T>& request, T* to_gradient)
        : gradient(to_gradient), losses(static_cast<std::size_t>(request.tasks)) {}
    T *gradient, *mean = nullptr, *outputs = nullptr;
    std::vector<T> losses;
  };

  Request<T> asked(Index steps, bool second_order, int threads) const {
    require(steps >= 1, "steps must be at least 1");
    require(threads >= 1, "threads must be at least 1");
    Request<T> request = request_;
    request.steps = steps;
    request.second_order = second_order;
    request.threads = threads;
    return request;
  }

  std::size_t gradient_bytes() const { return static_cast<std::size_t>(model_.num_parameters) * sizeof(T); }

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

  bool locate(std::vector<const T*>& parameters) const {
    parameters.reserve(slots_.size());
    for (const Slot& slot : slots_) {
      parameters.push_back(slot.kind.address(slot.parameter));
      if (!parameters.back()) return false;
    }
    return true;
  }

  bool locate(Places& places) const {
    std::size_t there = 0, learned = 0;
    places.gradients.reserve(slots_.size());
    places.tensors.reserve(slots_.size());
    for (const Slot& slot : slots_) {
      if (slot.learned && is_hooked(slot.parameter)) return false;
      places.tensors.push_back(slot.learned ? gradient_of(slot.parameter) : pybind11::none());
      there += !places.tensors.back().is_none();
      learned += slot.learned;
    }
    if (there != 0 && there != learned) return false;
    places.fresh = there == 0;
    for (std::size_t i = 0; i < slots_.size() && !places.fresh; ++i) {
      places.gradients.push_back(slots_[i].learned ? slots_[i].kind.address(places.tensors[i]) : nullptr);
      if (slots_[i].learned && !places.gradients.back()) return false;
    }
    return true;
  }

  void make(Places& fresh) const {
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].learned) fresh.tensors[i] = slots_[i].kind.made();
      fresh.gradients.push_back(slots_[i].learned ? slots_[i].kind.place(fresh.tensors[i]) : nullptr);
    }
  }

  void fill(const Places& fresh, const T* gradient) const {
    scatter(gradient, Pieces<T>{fresh.gradients, model_.counts}, false);
  }

  // Puts a gradient [P] where places say, or where it belongs now that another thread has put one. Holds the GIL from
  // the last look to the end, so that calls in several threads put theirs one after the other.
  // False, with nothing changed, where that is no longer in its power.
  bool put(Places& places, const T* gradient, bool add) const {
    while (places.puts != puts_) {  // to look, and to make tensors, lets other threads run
      Places now;
      if (!locate(now)) return false;
      if (now.fresh && places.fresh) {  // those that were made are still wanted
        places.puts = now.puts;
        continue;
      }
      places = std::move(now);
      if (places.fresh) {
        make(places);
        fill(places, gradient);
      }
    }
    ++puts_;
    if (!places.fresh) scatter(gradient, Pieces<T>{places.gradients, model_.counts}, add);
    for (std::size_t i = 0; places.fresh && i < slots_.size(); ++i)
      if (slots_[i].learned) set_gradient(slots_[i].parameter, places.tensors[i]);
    return true;
  }

  // flat: where parameters [P] are gathered. making: gives answer.mean its place. finish: called at the end, where
  // there is no problem, with whether all is finite.
  template <class Finish>
  object compute(Request<T>& request, const std::vector<const T*>& parameters, T* flat, Meanwhile& making,
                 Answer& answer, Finish finish) {
    double seconds = 0;
    Kept kept = std::move(kept_);  // none for a call from another thread meanwhile
    bool sound = false;
    request.meanwhile = &making.work();
    object problem = without_gil([&] {
      const auto start = std::chrono::steady_clock::now();
      gather(Pieces<const T>{parameters, model_.counts}, flat);
      const Status status = fastmaml::meta_gradient<T>(
          model_, request, {answer.losses.data(), answer.gradient, nullptr, answer.outputs}, &kept);
      if (status.problem != Problem::none || making.failed()) return status;
      double sum = 0;
      for (T loss : answer.losses) sum += static_cast<double>(loss);
      *answer.mean = static_cast<T>(sum / static_cast<double>(request.tasks));
      sound = all_finite(answer.gradient, model_.num_parameters) && std::isfinite(*answer.mean);
      finish(sound);
      seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() - making.seconds();
      return status;
    });
    making.rethrow();
    if (sound) kept_ = std::move(kept);
    if (problem.is_none()) seconds_ = seconds;
    return problem;
  }

  object losses(const Answer& answer) const {
    object tensor = results_[kLosses].made();
    std::copy(answer.losses.begin(), answer.losses.end(), results_[kLosses].place(tensor));
    return tensor;
  }

  // How often any call has put gradients: parameters may be those of several. Guarded by the GIL.
  static inline std::uint64_t puts_ = 0;

  const Model& model_;
  std::vector<Slot> slots_;
  std::vector<Form> samples_;
  std::vector<Kind> results_;
  Request<T> request_;
  Kept kept_;
  double seconds_ = 0;
};

}  // namespace fastmaml
