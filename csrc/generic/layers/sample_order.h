// A task's samples in the order of their one input: neighbours open the same units (generic/tiles/open_matmul.h).
#pragma once

#include "generic/tiles/sign_bits.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr Index kMostSorted = 64;  // longer sets are ordered in runs of so many

// An integer of its own for each sample, in the order of the numbers but for their last bits; NaN has a place as well.
template <class T>
inline Whole<T> key_of(T value, Index sample) {
  using Key = Whole<T>;
  Key bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  bits ^= (bits >> (8 * sizeof(Key) - 1)) & static_cast<Key>(~(Key(1) << (8 * sizeof(Key) - 1)));
  return (bits & ~static_cast<Key>(kMostSorted - 1)) | static_cast<Key>(sample);
}

// Each sample's place is the number of those before it: no branch that a processor could guess wrong, which for the few
// samples of a task costs less than a sort.
template <class T>
void order_run(const T* x, Index n, Index first, Index* order) {
  using Key = Whole<T>;
  using Keys = typename VectorOf<Key, kFlagBytes>::type;
  constexpr Index lanes = kFlagBytes / static_cast<Index>(sizeof(Key));
  Key keys[kMostSorted], places[kMostSorted];
  for (Index i = 0; i < n; ++i) keys[i] = key_of(x[i], i);
  for (Index i = 0; i < n; i += lanes) {
    const Keys here = load<Keys>(keys + i);
    Keys place{};
    for (Index j = 0; j < n; ++j) place -= here > keys[j];
    store(places + i, place);
  }
  for (Index i = 0; i < n; ++i) order[places[i]] = first + i;
}

template <class T>
void order_samples(const T* x, Index n, Index* order) {
  for (Index first = 0; first < n; first += kMostSorted)
    order_run(x + first, n - first < kMostSorted ? n - first : kMostSorted, first, order + first);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
