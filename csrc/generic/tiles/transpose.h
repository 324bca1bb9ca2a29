// Transposing weights: [in, padded(out)] -> [out, padded(in)], in square blocks of 32-byte rows.
#pragma once

#include <utility>

#include "generic/tiles/simd.h"
#include "plain/network.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr int kBlockBytes = 32;
template <class T>
constexpr int kBlock = kBlockBytes / static_cast<int>(sizeof(T));
template <class T>
using Block = typename VectorOf<T, kBlockBytes>::type;

// Swaps the off-diagonal quarters of side `Side` between rows a and b (Eklundh's recursive transposition).
template <class T, int Side, std::size_t... Lane>
inline void swap_quarters(Block<T>& a, Block<T>& b, std::index_sequence<Lane...>) {
  constexpr int lanes = kBlock<T>;
  const Block<T> upper = __builtin_shufflevector(
      a, b, ((Lane & Side) ? lanes + static_cast<int>(Lane) - Side : static_cast<int>(Lane))...);
  const Block<T> lower = __builtin_shufflevector(
      a, b, ((Lane & Side) ? lanes + static_cast<int>(Lane) : static_cast<int>(Lane) + Side)...);
  a = upper;
  b = lower;
}

template <class T, int Side>
inline void transpose_block(Block<T>* rows) {
  if constexpr (Side > 0) {
#pragma GCC unroll 8
    for (int r = 0; r < kBlock<T>; ++r)
      if (!(r & Side)) swap_quarters<T, Side>(rows[r], rows[r + Side], std::make_index_sequence<kBlock<T>>{});
    transpose_block<T, Side / 2>(rows);
  }
}

// One square block, of which the first `rows` rows and `columns` columns are there; zeros stand for the other rows.
template <class T>
inline void transpose_square(const T* from, Index from_width, T* to, Index to_width, Index rows, Index columns) {
  constexpr Index side = kBlock<T>;
  Block<T> block[side];
#pragma GCC unroll 8
  for (Index i = 0; i < side; ++i) block[i] = i < rows ? load<Block<T>>(from + i * from_width) : Block<T>{};
  transpose_block<T, kBlock<T> / 2>(block);
#pragma GCC unroll 8
  for (Index j = 0; j < side; ++j)
    if (j < columns) store(to + j * to_width, block[j]);
}

template <class T>
void transpose(const T* from, Index rows, Index from_width, T* to, Index columns, Index to_width) {
  constexpr Index side = kBlock<T>;
  for (Index r = 0; r < to_width; r += side) {  // zeros beyond the last row
    for (Index c = 0; c < columns; c += side) {
      const T* square = from + r * from_width + c;
      if (r + side <= rows && c + side <= columns)
        transpose_square(square, from_width, to + c * to_width + r, to_width, side, side);
      else transpose_square(square, from_width, to + c * to_width + r, to_width, rows - r, columns - c);
    }
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
