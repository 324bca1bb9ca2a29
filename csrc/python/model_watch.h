// The looks of fastmaml.runtime.watch.ModelWatch without an interpreter in between, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

#include "python/collected.h"
#include "python/module_settings.h"
#include "python/parameter_form.h"
#include "python/tensor_form.h"

namespace fastmaml {

class ModelWatch {
  using handle = pybind11::handle;
  using object = pybind11::object;
  using dict = pybind11::dict;
  using list = pybind11::list;

 public:
  // settings: of each module, (itself, dict of settings). members: dicts whose values are to stay. buffers: dicts, of
  // which those that are None are to stay so, and no others. exchange: DLPack's table of torch.Tensor, or None.
  ModelWatch(const list& settings, const list& members, const list& buffers, const list& parameters, handle exchange) {
    for (handle each : settings) {
      const auto given = each.cast<pybind11::tuple>();
      settings_.emplace_back(given[0], given[1].cast<dict>());
    }
    for (handle each : members) members_.emplace_back(each.cast<dict>(), values(each.ptr()));
    for (handle each : buffers) buffers_.emplace_back(each.cast<dict>(), absent(each.ptr()));
    const DlExchange::View view = DlExchange::view_of(exchange);
    for (handle each : parameters) forms_.emplace_back(each.cast<object>(), view);
  }

  bool changed() const {
    for (const auto& [of, seen] : members_)
      if (!holds(of.ptr(), seen)) return true;
    for (const ParameterForm& form : forms_)
      if (form.changed()) return true;
    for (const auto& [of, seen] : buffers_)
      if (absent(of.ptr()) != seen) return true;
    for (const ModuleSettings& of : settings_)
      if (of.changed()) return true;
    return settings_.empty();  // of no model: it has been cleared
  }

  void visit(Visitor& visitor) const {
    for (const ModuleSettings& of : settings_) of.visit(visitor);
    for (const auto& [of, seen] : members_) {
      visitor(of);
      for (const object& value : seen) visitor(value);
    }
    for (const auto& [of, seen] : buffers_) visitor(of);
    for (const ParameterForm& form : forms_) form.visit(visitor);
  }

  // What it held dies last, when nothing here leads to it.
  void clear() {
    const auto settings = std::exchange(settings_, {});
    const auto members = std::exchange(members_, {});
    const auto buffers = std::exchange(buffers_, {});
    const auto forms = std::exchange(forms_, {});
  }

 private:
  static std::vector<object> values(PyObject* of) {
    std::vector<object> found;
    PyObject* value;
    for (Py_ssize_t place = 0; PyDict_Next(of, &place, nullptr, &value);)
      found.push_back(pybind11::reinterpret_borrow<object>(value));
    return found;
  }

  static bool holds(PyObject* of, const std::vector<object>& seen) {
    if (PyDict_Size(of) != static_cast<Py_ssize_t>(seen.size())) return false;
    if (seen.empty()) return true;
    PyObject* value;
    auto before = seen.begin();
    for (Py_ssize_t place = 0; PyDict_Next(of, &place, nullptr, &value); ++before)
      if (value != before->ptr()) return false;
    return true;
  }

  static std::vector<bool> absent(PyObject* of) {
    std::vector<bool> found;
    PyObject* value;
    for (Py_ssize_t place = 0; PyDict_Next(of, &place, nullptr, &value);) found.push_back(value == Py_None);
    return found;
  }

  std::vector<ModuleSettings> settings_;
  std::vector<std::pair<dict, std::vector<object>>> members_;
  std::vector<std::pair<dict, std::vector<bool>>> buffers_;
  std::vector<ParameterForm> forms_;
};

}  // namespace fastmaml
