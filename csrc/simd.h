// Plain GCC/Clang vector types: the compiler turns them into whatever the file's instruction set has.
#pragma once

#include <cstddef>

#if !defined(FASTMAML_ISA) || !defined(FASTMAML_VECTOR_BYTES)
#error "include this from an isa_*.cpp file, which names its instruction set and vector width"
#endif

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr int kVectorBytes = FASTMAML_VECTOR_BYTES;
// Rows are padded to kPadBytes (network.h), so a 64-byte vector may leave one 32-byte half at a row's end.
constexpr int kHalfBytes = kVectorBytes == 64 ? 32 : kVectorBytes;
constexpr bool kHasHalf = kVectorBytes == 64;

template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};
template <class T>
using Wide = typename VectorOf<T, kVectorBytes>::type;
template <class T>
using Half = typename VectorOf<T, kHalfBytes>::type;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kHalfLanes = kHalfBytes / static_cast<int>(sizeof(T));

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

// The first lanes: the same register under a shorter name.
template <class T>
inline Half<T> lower_half(Wide<T> value) {
  Half<T> half;
  __builtin_memcpy(&half, &value, sizeof(half));
  return half;
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
