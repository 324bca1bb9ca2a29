// Scalar products of the rows of two small matrices, as a matrix: what one sample set says about another.
#pragma once

#include <utility>

#include "generic/tiles/matmul.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Lanes whose bit `Side` is not set hold sums of two lanes of a, the others of b.
template <class T, int Side, std::size_t... Lane>
inline Wide<T> fold(Wide<T> a, Wide<T> b, std::index_sequence<Lane...>) {
  constexpr int lanes = kLanes<T>;
  const Wide<T> there =
      __builtin_shufflevector(a, b, ((Lane & Side) ? lanes + static_cast<int>(Lane) : static_cast<int>(Lane))...);
  const Wide<T> across = __builtin_shufflevector(
      a, b, ((Lane & Side) ? lanes + static_cast<int>(Lane) - Side : static_cast<int>(Lane) + Side)...);
  return there + across;
}

// As many vectors as there are lanes: the sum of each one's lanes, in a lane of its own.
template <class T, int Side = 1>
inline Wide<T> fold_all(Wide<T>* vectors) {
  if constexpr (Side == kLanes<T>) {
    return vectors[0];
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes<T> / (2 * Side); ++i)
      vectors[i] = fold<T, Side>(vectors[2 * i], vectors[2 * i + 1], std::make_index_sequence<kLanes<T>>{});
    return fold_all<T, 2 * Side>(vectors);
  }
}

// out[r, c] = shift + scale a[r] . b[c]; rows of `depth` numbers in whole vectors, zero beyond the last
template <class T>
struct RowProducts {
  const T* a;
  Index a_row;
  const T* b;
  Index b_row;
  Index depth;
  T scale, shift;
  T* out;
  Index out_row;
  const Bits *open_a = nullptr, *open_b = nullptr;  // of each row: which of its numbers may differ from zero
  bool ones = false;  // a column of both holds a one, of which the bits do not speak and on which `shift` counts
};

// Whether the rows of a tile are closed to each other, but for the column of ones.
template <class T>
bool are_apart(const RowProducts<T>& p, Index row, Index rows, Index column, Index columns) {
  if (!p.open_a || !p.open_b) return false;
  Bits left = 0, right = 0;
  for (Index r = 0; r < rows; ++r) left |= p.open_a[row + r];
  for (Index c = 0; c < columns; ++c) right |= p.open_b[column + c];
  return !(left & right);
}

template <class T, int R, int C>
void product_tile(const RowProducts<T>& p, Index row, Index column) {
  constexpr int lanes = kLanes<T>, folds = (R * C + lanes - 1) / lanes;
  const T* a = p.a + row * p.a_row;
  const T* b = p.b + column * p.b_row;
  if (are_apart(p, row, R, column, C)) {
    const T product = p.ones ? p.shift + p.scale : p.shift;
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) p.out[(row + r) * p.out_row + column + c] = product;
    return;
  }
  Wide<T> sums[folds * lanes] = {};
  for (Index d = 0; d < p.depth; d += lanes) {
    Wide<T> left[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) left[r] = load<Wide<T>>(a + r * p.a_row + d);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Wide<T> right = load<Wide<T>>(b + c * p.b_row + d);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r * C + c] += left[r] * right;
    }
  }
  T products[folds * lanes];
#pragma GCC unroll 4
  for (int i = 0; i < folds; ++i)
    store(products + i * lanes, splat<Wide<T>>(p.shift) + splat<Wide<T>>(p.scale) * fold_all<T>(sums + i * lanes));
  T* out = p.out + row * p.out_row + column;
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) out[r * p.out_row + c] = products[r * C + c];
}

constexpr Index kMostProducts = 5;  // columns of a tile of two rows

template <class T, int R>
inline void product_rows(const RowProducts<T>& p, Index row, Index columns, Index column) {
  using Tile = void (*)(const RowProducts<T>&, Index, Index);
  static constexpr Tile tiles[] = {product_tile<T, R, 1>, product_tile<T, R, 2>, product_tile<T, R, 3>,
                                   product_tile<T, R, 4>, product_tile<T, R, 5>};
  tiles[columns - 1](p, row, column);
}

// out [rows, columns]
template <class T>
void row_products(Index rows, Index columns, const RowProducts<T>& p) {
  const Index piece = even_piece(columns, kMostProducts);
  for (Index column = 0; column < columns; column += piece) {
    const Index width = column + piece <= columns ? piece : columns - column;
    Index row = 0;
    for (; row + 2 <= rows; row += 2) product_rows<T, 2>(p, row, width, column);
    if (row < rows) product_rows<T, 1>(p, row, width, column);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
