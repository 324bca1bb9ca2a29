// Plain GCC/Clang vector types: the compiler turns them into whatever the file's instruction set has.
#pragma once

#include <cstddef>

#if !defined(FASTMAML_ISA) || !defined(FASTMAML_VECTOR_BYTES)
#error "include this from an isa_*.cpp file, which names its instruction set and vector width"
#endif

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr int kVectorBytes = FASTMAML_VECTOR_BYTES;
template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};
template <class T>
using Wide = typename VectorOf<T, kVectorBytes>::type;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Columns in whole vectors: what lies between them and the padded row is zero and stays so.
template <class T>
constexpr std::ptrdiff_t whole_vectors(std::ptrdiff_t columns) {
  return (columns + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class V, class T>
inline V load(const T* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

template <class V, class T>
inline void store(T* to, V value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

template <class V, class T>
inline V splat(T value) {
  return value - V{};  // folds to a broadcast, which 0 + value would not
}

// max(value, 0) that lets NaN through, so that a poisoned input is never hidden.
template <class V>
inline V relu(V value) {
  return value < V{} ? V{} : value;
}

template <class V>
inline V gate(V value, V by) {
  return by > V{} ? value : V{};
}

template <class T, class V>
inline T horizontal_sum(V value) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  if constexpr (lanes == 1) {
    return value[0];
  } else {
    typedef T Lower __attribute__((vector_size(sizeof(V) / 2)));
    Lower parts[2];
    __builtin_memcpy(parts, &value, sizeof(V));
    return horizontal_sum<T, Lower>(parts[0] + parts[1]);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
