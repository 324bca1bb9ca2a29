// The looks of fastmaml.watch.ModelWatch without an interpreter in between, part of bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <utility>
#include <vector>

namespace fastmaml {

class ModelWatch {
  using handle = pybind11::handle;
  using object = pybind11::object;
  using dict = pybind11::dict;
  using list = pybind11::list;

 public:
  // members: dicts whose values are to stay. attributes: (object, name, value). buffers: dicts, of which those that are
  // None are to stay so, and no others. hooks: dicts of hooks, of which all are to stay empty, or not all.
  ModelWatch(const list& members, const list& attributes, const list& buffers, const list& hooks) {
    for (handle each : members) members_.emplace_back(each.cast<dict>(), values(each.ptr()));
    for (handle each : attributes) {
      const auto attribute = each.cast<pybind11::tuple>();
      object name = attribute[1];
      PyObject* interned = name.release().ptr();
      PyUnicode_InternInPlace(&interned);
      attributes_.push_back({attribute[0], pybind11::reinterpret_steal<object>(interned), attribute[2]});
      hold_as_dict(attributes_.back());
    }
    for (handle each : buffers) buffers_.emplace_back(each.cast<dict>(), absent(each.ptr()));
    for (handle each : hooks) hooks_.push_back(each.cast<dict>());
    hooked_ = any_hooks();
  }

  bool changed() const {
    for (const auto& [of, seen] : members_)
      if (!holds(of.ptr(), seen)) return true;
    for (const Attribute& attribute : attributes_)
      if (!is_as_before(attribute)) return true;
    for (const auto& [of, seen] : buffers_)
      if (absent(of.ptr()) != seen) return true;
    return any_hooks() != hooked_;
  }

 private:
  struct Attribute {
    object of, name, value;
    bool in_dict = false;  // `of` is the dict of the object's attributes
  };

  // A module's own attributes are looked up where they are: its class would first look for them in other places.
  static void hold_as_dict(Attribute& attribute) {
    object all = pybind11::getattr(attribute.of, "__dict__", pybind11::none());
    if (!PyDict_CheckExact(all.ptr()) || !PyDict_Contains(all.ptr(), attribute.name.ptr())) return;
    attribute.of = std::move(all);
    attribute.in_dict = true;
  }

  static std::vector<object> values(PyObject* of) {
    std::vector<object> found;
    PyObject* value;
    for (Py_ssize_t place = 0; PyDict_Next(of, &place, nullptr, &value);)
      found.push_back(pybind11::reinterpret_borrow<object>(value));
    return found;
  }

  static bool holds(PyObject* of, const std::vector<object>& seen) {
    if (PyDict_Size(of) != static_cast<Py_ssize_t>(seen.size())) return false;
    PyObject* value;
    auto before = seen.begin();
    for (Py_ssize_t place = 0; PyDict_Next(of, &place, nullptr, &value); ++before)
      if (value != before->ptr()) return false;
    return true;
  }

  static object value_of(const Attribute& attribute) {
    PyObject* const of = attribute.of.ptr();
    PyObject* const name = attribute.name.ptr();
    if (attribute.in_dict) return pybind11::reinterpret_borrow<object>(PyDict_GetItemWithError(of, name));
    return pybind11::reinterpret_steal<object>(PyObject_GetAttr(of, name));
  }

  static bool is_as_before(const Attribute& attribute) {
    const object value = value_of(attribute);
    if (!value && !PyErr_Occurred()) return false;  // it has been deleted
    if (value.is(attribute.value)) return true;
    const int same = value ? PyObject_RichCompareBool(value.ptr(), attribute.value.ptr(), Py_EQ) : -1;
    if (same < 0) throw pybind11::error_already_set();
    return same == 1;
  }

  static std::vector<bool> absent(PyObject* of) {
    std::vector<bool> found;
    PyObject* value;
    for (Py_ssize_t place = 0; PyDict_Next(of, &place, nullptr, &value);) found.push_back(value == Py_None);
    return found;
  }

  bool any_hooks() const {
    for (const dict& each : hooks_)
      if (PyDict_Size(each.ptr()) != 0) return true;
    return false;
  }

  std::vector<std::pair<dict, std::vector<object>>> members_;
  std::vector<Attribute> attributes_;
  std::vector<std::pair<dict, std::vector<bool>>> buffers_;
  std::vector<dict> hooks_;
  bool hooked_ = false;
};

}  // namespace fastmaml
