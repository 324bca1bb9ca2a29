// Python's handlers of signals in the midst of a call of the core, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace fastmaml {

// Runs the handlers of those that wait; throws what they raise. Python handles signals in its main thread alone: in
// others this does nothing.
inline void run_signal_handlers() {
  if (!Py_IsInitialized()) return;  // the interpreter is going; its lock would not be had
  pybind11::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
}

}  // namespace fastmaml
