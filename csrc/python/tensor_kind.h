// Tensors that PyTorch is asked to make, all like one another, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <utility>

#include "python/collected.h"
#include "python/tensor_form.h"

namespace fastmaml {

// PyTorch has made a tensor of another kind than asked for, as it does where the user has changed what it makes
// (FakeTensorMode).
struct MadeOtherwise : std::exception {};

template <class T>
class TensorKind {
  using object = pybind11::object;

 public:
  // example: one of them. empty_like: PyTorch's.
  TensorKind(object example, DlExchange::View view, object empty_like)
      : example_(std::move(example)), form_(example_, view), empty_like_(std::move(empty_like)) {}

  // A new one, which nobody else holds.
  object made() const {
    PyObject* const arguments[] = {example_.ptr()};
    PyObject* const tensor = PyObject_Vectorcall(empty_like_.ptr(), arguments, 1, nullptr);
    if (!tensor) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<object>(tensor);
  }

  // Where the numbers of a tensor are; null for one that is not of this kind.
  T* address(pybind11::handle tensor) const { return static_cast<T*>(form_.address(tensor.ptr())); }

  // Where those of a new one are to go. Throws MadeOtherwise.
  T* place(pybind11::handle made) const {
    T* const at = static_cast<T*>(form_.address_of_new(made.ptr()));
    if (!at) throw MadeOtherwise();
    return at;
  }

  void visit(Visitor& visitor) const {
    visitor(example_);
    visitor(empty_like_);
    form_.visit(visitor);
  }

 private:
  object example_;
  TensorForm form_;
  object empty_like_;
};

}  // namespace fastmaml
