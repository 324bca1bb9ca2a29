// How bindings.cpp runs the core, and tells Python what it found wrong.
#pragma once

#include <pybind11/pybind11.h>

#include "plain/copies.h"

namespace fastmaml {

// None when all is well, else (problem, "support" | "query", task, sample, value).
inline pybind11::object report(const Status& status) {
  if (status.problem == Problem::none) return pybind11::none();
  const char* problem = status.problem == Problem::no_weight ? "no_weight" : "label_out_of_range";
  return pybind11::make_tuple(problem, status.query ? "query" : "support", status.task, status.sample, status.value);
}

template <class Run>
pybind11::object without_gil(Run run) {
  Status status;
  {
    pybind11::gil_scoped_release release;
    status = run();
  }
  return report(status);
}

}  // namespace fastmaml
