// A user's parameters, each a tensor of its own, as the one vector that the core works on, and back.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "plain/network.h"

namespace fastmaml {

template <class T>
struct Pieces {
  const std::vector<T*>& at;         // null where nobody wants a piece
  const std::vector<Index>& counts;  // elements of each
};

template <class T>
void gather(const Pieces<const T>& pieces, T* flat) {
  for (std::size_t i = 0; i < pieces.at.size(); flat += pieces.counts[i++])
    std::memcpy(flat, pieces.at[i], static_cast<std::size_t>(pieces.counts[i]) * sizeof(T));
}

template <class T>
void scatter(const T* flat, const Pieces<T>& pieces, bool add) {
  for (std::size_t i = 0; i < pieces.at.size(); flat += pieces.counts[i++]) {
    T* to = pieces.at[i];
    if (!to) continue;
    if (!add) std::memcpy(to, flat, static_cast<std::size_t>(pieces.counts[i]) * sizeof(T));
    for (Index j = 0; add && j < pieces.counts[i]; ++j) to[j] += flat[j];
  }
}

template <class T>
void scatter_times(T scale, const T* flat, const Pieces<T>& pieces) {
  for (std::size_t i = 0; i < pieces.at.size(); flat += pieces.counts[i++]) {
    T* to = pieces.at[i];
    for (Index j = 0; to && j < pieces.counts[i]; ++j) to[j] = scale * flat[j];
  }
}

// Looks at exponents, which vectorises where a sum would have to keep its order.
template <class T>
bool all_finite(const T* values, Index count) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  constexpr Bits exponent = sizeof(T) == 4 ? Bits{0x7f800000u} : static_cast<Bits>(0x7ff0000000000000u);
  Bits bad = 0;
  for (Index i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, values + i, sizeof bits);
    bad |= static_cast<Bits>((bits & exponent) == exponent);
  }
  return bad == 0;
}

}  // namespace fastmaml
