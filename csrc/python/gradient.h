// What autograd keeps at a parameter, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace fastmaml {

struct ParameterNames {
  PyObject* grad = PyUnicode_InternFromString("grad");
  PyObject* hooks = PyUnicode_InternFromString("_backward_hooks");
  PyObject* post_hooks = PyUnicode_InternFromString("_post_accumulate_grad_hooks");

  static const ParameterNames& interned() {
    static const ParameterNames instance;  // for as long as the process lives
    return instance;
  }
};

inline pybind11::object attribute(pybind11::handle of, PyObject* name) {
  PyObject* const value = PyObject_GetAttr(of.ptr(), name);
  if (!value) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(value);
}

inline pybind11::object gradient_of(pybind11::handle parameter) {
  return attribute(parameter, ParameterNames::interned().grad);
}

inline void set_gradient(pybind11::handle parameter, pybind11::handle gradient) {
  if (PyObject_SetAttr(parameter.ptr(), ParameterNames::interned().grad, gradient.ptr()))
    throw pybind11::error_already_set();
}

// Whether a hook waits for its gradient.
inline bool is_hooked(pybind11::handle parameter) {
  for (PyObject* name : {ParameterNames::interned().hooks, ParameterNames::interned().post_hooks}) {
    const pybind11::object hooks = attribute(parameter, name);
    if (!hooks.is_none() && PyObject_IsTrue(hooks.ptr()) != 0) return true;
  }
  return false;
}

}  // namespace fastmaml
