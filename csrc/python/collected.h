// Objects of the core that hold Python's, for the garbage collector to look into, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace fastmaml {

// Shows the collector one object after the other, until it wants no more.
class Visitor {
 public:
  Visitor(visitproc visit, void* argument) : visit_(visit), argument_(argument) {}
  void operator()(pybind11::handle held) {
    if (held && !answer_) answer_ = visit_(held.ptr(), argument_);
  }
  int answer() const { return answer_; }

 private:
  visitproc visit_;
  void* argument_;
  int answer_ = 0;
};

// Null where the object is still being made, or was never.
template <class C>
C* made(PyObject* self) {
  const auto* const instance = reinterpret_cast<pybind11::detail::instance*>(self);
  const bool whole = instance->simple_layout && instance->simple_holder_constructed;
  return whole ? static_cast<C*>(instance->simple_value_holder[0]) : nullptr;
}

// For pybind11::class_. C has visit(Visitor&) const, which shows all that it holds, and clear(), which lets go of it;
// its other methods may still be called then.
template <class C>
pybind11::custom_type_setup collected() {
  return pybind11::custom_type_setup([](PyHeapTypeObject* heap) {
    PyTypeObject& type = heap->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* argument) {
      Visitor visitor(visit, argument);
      visitor(reinterpret_cast<PyObject*>(Py_TYPE(self)));
      if (const C* of = made<C>(self)) of->visit(visitor);
      return visitor.answer();
    };
    type.tp_clear = [](PyObject* self) {
      if (C* of = made<C>(self)) of->clear();
      return 0;
    };
  });
}

}  // namespace fastmaml
