// What a parameter is, all but its numbers and place in memory, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "python/collected.h"
#include "python/tensor_form.h"

namespace fastmaml {

class ParameterForm {
  using object = pybind11::object;

 public:
  // view: may be null, or unable to tell of a parameter; its attributes then tell.
  ParameterForm(object parameter, DlExchange::View view) : parameter_(std::move(parameter)) {
    add("requires_grad");
    DlTensor tensor;
    if (view && DlExchange::look(view, parameter_.ptr(), &tensor)) {
      view_ = view;
      seen_ = tensor;
      shape_.assign(tensor.shape, tensor.shape + tensor.dimensions);
      return;
    }
    for (const char* name : {"dtype", "device", "shape"}) add(name);
  }

  bool changed() const {
    for (const auto& [name, value] : attributes_)
      if (!is_as_before(name, value)) return true;
    return view_ && is_viewed_anew();
  }

  void visit(Visitor& visitor) const { visitor(parameter_); }

 private:
  // One that cannot be told (the shape of a parameter that has none yet) is none.
  void add(const char* of) {
    auto name = pybind11::reinterpret_steal<object>(PyUnicode_InternFromString(of));
    auto value = pybind11::reinterpret_steal<object>(PyObject_GetAttr(parameter_.ptr(), name.ptr()));
    if (!value) PyErr_Clear();
    attributes_.emplace_back(std::move(name), std::move(value));
  }

  bool is_as_before(const object& name, const object& seen) const {
    const auto now = pybind11::reinterpret_steal<object>(PyObject_GetAttr(parameter_.ptr(), name.ptr()));
    if (!now) PyErr_Clear();
    if (now.is(seen)) return true;
    const int same = now && seen ? PyObject_RichCompareBool(now.ptr(), seen.ptr(), Py_EQ) : 0;
    if (same < 0) throw pybind11::error_already_set();
    return same == 1;
  }

  bool is_viewed_anew() const {
    DlTensor now;
    if (!DlExchange::look(view_, parameter_.ptr(), &now)) return true;
    return now.type_code != seen_.type_code || now.type_bits != seen_.type_bits ||
           now.device_type != seen_.device_type || now.device_id != seen_.device_id ||
           now.dimensions != seen_.dimensions || !std::equal(shape_.begin(), shape_.end(), now.shape);
  }

  object parameter_;
  DlExchange::View view_ = nullptr;
  DlTensor seen_{};  // of which the addresses have no meaning
  std::vector<std::int64_t> shape_;
  std::vector<std::pair<object, object>> attributes_;
};

}  // namespace fastmaml
