// The attributes that a module computes by, as fastmaml/runtime/settings.py tells them, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

#include "python/collected.h"

namespace fastmaml {

// Whether an item of a list, or a setting that is none, is what it was; as _is_same_item of
// fastmaml/runtime/settings.py.
inline bool is_same_item(PyObject* now, PyObject* seen) {
  if (now == seen) return true;
  if (Py_TYPE(now) != Py_TYPE(seen)) return false;
  if (PyTuple_Check(now)) {
    const Py_ssize_t size = PyTuple_GET_SIZE(now);
    if (PyTuple_GET_SIZE(seen) != size) return false;
    for (Py_ssize_t i = 0; i < size; ++i)
      if (!is_same_item(PyTuple_GET_ITEM(now, i), PyTuple_GET_ITEM(seen, i))) return false;
    return true;
  }
  const bool plain = PyLong_CheckExact(now) || PyFloat_CheckExact(now) || PyComplex_CheckExact(now) ||
                     PyUnicode_CheckExact(now) || PyBytes_CheckExact(now);
  return plain && PyObject_RichCompareBool(now, seen, Py_EQ) == 1;  // which cannot fail
}

// seen: of a list, a copy.
inline bool is_same(PyObject* now, PyObject* seen) {
  if (!PyList_CheckExact(seen) || !PyList_CheckExact(now)) return is_same_item(now, seen);
  const Py_ssize_t size = PyList_GET_SIZE(now);
  if (PyList_GET_SIZE(seen) != size) return false;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (!is_same_item(PyList_GET_ITEM(now, i), PyList_GET_ITEM(seen, i))) return false;
  return true;
}

class ModuleSettings {
  using handle = pybind11::handle;
  using object = pybind11::object;

 public:
  // settings: name -> value, each an attribute of the module itself.
  ModuleSettings(object module, const pybind11::dict& settings)
      : module_(std::move(module)), type_(pybind11::type::of(module_)), all_(module_.attr("__dict__")) {
    count_ = PyDict_Size(all_.ptr());
    for (const auto& [name, value] : settings) {
      PyObject* interned = pybind11::reinterpret_borrow<object>(name).release().ptr();
      PyUnicode_InternInPlace(&interned);
      settings_.emplace_back(pybind11::reinterpret_steal<object>(interned),
                             pybind11::reinterpret_borrow<object>(value));
    }
  }

  // Whether the module has another class, more or fewer attributes, or other settings.
  bool changed() const {
    if (reinterpret_cast<PyObject*>(Py_TYPE(module_.ptr())) != type_.ptr()) return true;
    if (PyDict_Size(all_.ptr()) != count_) return true;
    for (const auto& [name, value] : settings_) {
      PyObject* const now = PyDict_GetItemWithError(all_.ptr(), name.ptr());
      if (!now || !is_same(now, value.ptr())) return true;
    }
    return false;
  }

  void visit(Visitor& visitor) const {
    for (handle held : {handle(module_), handle(type_), handle(all_)}) visitor(held);
    for (const auto& [name, value] : settings_) visitor(value);
  }

 private:
  object module_, type_;
  pybind11::dict all_;
  Py_ssize_t count_ = 0;
  std::vector<std::pair<object, object>> settings_;
};

}  // namespace fastmaml
