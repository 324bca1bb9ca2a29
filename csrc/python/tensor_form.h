// What a tensor in Python's hands must be for its address to say all, part of bindings.cpp. PyTorch, of which nothing
// is linked, tells by the C functions that DLPack has for this (https://dmlc.github.io/dlpack, version 1), at a third
// of the time that a tensor's attributes take; where it is too old to have them, the attributes tell.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "python/collected.h"

namespace fastmaml {

struct DlTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t dimensions;
  std::uint8_t type_code, type_bits;
  std::uint16_t type_lanes;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

// DLPack's table of functions. View lends a tensor's description until Python runs again; 0, or -1 with an error set.
// Of a tensor without memory of its own, PyTorch's throws an exception of C++ instead (of to_mkldnn() in torch 2.13).
struct DlExchange {
  using View = int (*)(void* tensor, DlTensor* to);

  // Whether the description was lent; no error stays set.
  static bool look(View view, PyObject* tensor, DlTensor* to) {
    try {
      if (view(tensor, to) == 0) return true;
    } catch (...) {
    }
    PyErr_Clear();
    return false;
  }

  std::uint32_t major_version, minor_version;
  const DlExchange* previous;
  void *allocate, *from_tensor, *to_tensor;
  View view;
  void* current_stream;

  // Null without a capsule, or without one of version 1.
  static View view_of(pybind11::handle capsule) {
    if (capsule.is_none()) return nullptr;
    const void* table = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    if (!table) throw pybind11::error_already_set();
    for (auto each = static_cast<const DlExchange*>(table); each; each = each->previous)
      if (each->major_version == 1) return each->view;
    return nullptr;
  }
};

// Contiguous tensors on the CPU, of one type and shape, whose memory holds their numbers as they are: those of a tensor
// with PyTorch's negative bit (of z.conj().imag) have the other sign there, which no function of DLPack tells.
class TensorForm {
 public:
  // That of a tensor which has it, to be told by `view`, or null for attributes. No tensor is of the form of one that
  // `view` cannot tell of.
  TensorForm(pybind11::handle example, DlExchange::View view)
      : view_(view), is_negative_(pybind11::type::of(example).attr("is_neg")) {
    if (!view_) {
      for (const char* name : {"dtype", "layout", "device", "shape"})
        attributes_.emplace_back(name, example.attr(name));
      return;
    }
    DlTensor tensor;
    if (!DlExchange::look(view_, example.ptr(), &tensor)) return;
    type_code_ = tensor.type_code;
    type_bits_ = tensor.type_bits;
    shape_.assign(tensor.shape, tensor.shape + tensor.dimensions);
  }

  // Where a tensor's numbers are; null for what is not of this form, or has none. The error of Python's that came with
  // it is no news: who gets null asks PyTorch in another way.
  void* address(PyObject* tensor) const {
    void* const data = address_of_new(tensor);
    return data && !is_negative(tensor) ? data : nullptr;
  }

  // The same of a tensor that PyTorch has just made, which is never negative.
  void* address_of_new(PyObject* tensor) const {
    void* data = nullptr;
    try {
      data = view_ ? viewed(tensor) : read(tensor);
    } catch (const pybind11::error_already_set&) {
    }
    if (!data) PyErr_Clear();
    return data;
  }

  void visit(Visitor& visitor) const {
    visitor(is_negative_);
    for (const Attribute& attribute : attributes_) visitor(attribute.value);
  }

 private:
  struct Attribute {
    Attribute(const char* of, pybind11::object is)
        : name(pybind11::reinterpret_steal<pybind11::object>(PyUnicode_InternFromString(of))), value(std::move(is)) {}
    pybind11::object name, value;
  };

  // Also where it cannot be told.
  bool is_negative(PyObject* tensor) const {
    PyObject* const arguments[] = {tensor};
    PyObject* const answer = PyObject_Vectorcall(is_negative_.ptr(), arguments, 1, nullptr);
    if (answer) Py_DECREF(answer);
    else PyErr_Clear();
    return answer != Py_False;
  }

  void* viewed(PyObject* object) const {
    constexpr std::int32_t cpu = 1;
    DlTensor tensor;
    if (!DlExchange::look(view_, object, &tensor) || tensor.device_type != cpu || !tensor.data) return nullptr;
    if (tensor.type_code != type_code_ || tensor.type_bits != type_bits_ || tensor.type_lanes != 1) return nullptr;
    if (tensor.dimensions != static_cast<std::int32_t>(shape_.size())) return nullptr;
    std::int64_t stride = 1;
    for (std::size_t i = shape_.size(); i-- > 0; stride *= shape_[i])
      if (tensor.shape[i] != shape_[i] || (shape_[i] != 1 && tensor.strides[i] != stride)) return nullptr;
    return static_cast<char*>(tensor.data) + tensor.byte_offset;
  }

  void* read(PyObject* tensor) const {
    for (const Attribute& attribute : attributes_) {
      const auto value = pybind11::reinterpret_steal<pybind11::object>(PyObject_GetAttr(tensor, attribute.name.ptr()));
      if (!value || PyObject_RichCompareBool(value.ptr(), attribute.value.ptr(), Py_EQ) != 1) return nullptr;
    }
    const pybind11::handle given(tensor);
    if (!given.attr("is_contiguous")().cast<bool>()) return nullptr;
    return reinterpret_cast<void*>(given.attr("data_ptr")().cast<std::uintptr_t>());
  }

  DlExchange::View view_;
  pybind11::object is_negative_;                // PyTorch's method
  std::uint8_t type_code_ = 0, type_bits_ = 0;  // 0 bits: of no tensor
  std::vector<std::int64_t> shape_;
  std::vector<Attribute> attributes_;
};

}  // namespace fastmaml
