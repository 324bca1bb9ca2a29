// Which units of a hidden layer a sample opens, as bits, and products that skip those that a ReLU has closed.
// docs/mathematics.md says what samples in the order of their one input have to do with it.
#pragma once

#include "matmul_tile.h"
#include "sign_bits.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

inline Bits lowest_bits(Index count) { return count < kMostOpen ? (Bits(1) << count) - 1 : ~Bits(0); }

// Of the first `units` numbers of a padded row; bit u: number u is not zero.
template <class T>
Bits nonzero_bits(const T* row, Index units) {
  using Row = typename VectorOf<T, kFlagBytes>::type;
  constexpr Index lanes = kFlagBytes / static_cast<Index>(sizeof(T));
  Bits bits = 0;
  for (Index u = 0; u < units; u += lanes) bits |= sign_bits(load<Row>(row + u) != Row{}) << u;
  return bits & lowest_bits(units);
}

// Two samples that follow each other open nearly the same units, so that tiles are wide rather than high.
#if FASTMAML_VECTOR_BYTES == 64
constexpr int kOpenRows = 4, kOpenVectors = 3;
#else
constexpr int kOpenRows = 2, kOpenVectors = 5;
#endif

template <class T, int R, int V, Finish F>
void open_tiles(const Term<T>* terms, int num_terms, const Output<T>& given, Index row, Index last, Index column) {
  const Output<T> out = given;  // a copy that no store through `c` can change
  OutputRow<T> at(out, row, column);
  for (; row < last; row += R, at.advance(out, R)) {
    Tile<T, R, V, F> tile;
    tile.start(out, at);
    for (int i = 0; i < num_terms; ++i) {
      if (terms[i].open) tile.multiply_open(terms[i], row, column);
      else tile.multiply(terms[i], row, column);
    }
    tile.end(out, at);
  }
}

template <class T, int V, Finish F>
void open_columns(const Term<T>* terms, int num_terms, const Output<T>& out, Index rows, Index column) {
  const Index whole = rows / kOpenRows * kOpenRows;
  open_tiles<T, kOpenRows, V, F>(terms, num_terms, out, 0, whole, column);
  open_tiles<T, 1, V, F>(terms, num_terms, out, whole, rows, column);
}

// As matmul; the terms that have bits read only what is open in some row of a tile.
template <Finish F, class T>
void open_matmul(Index rows, Index columns, const Term<T>* terms, int num_terms, const Output<T>& out) {
  Index vectors = columns / kLanes<T>, column = 0;
  const auto piece = [&](auto width) {
    open_columns<T, decltype(width)::value, F>(terms, num_terms, out, rows, column);
  };
  ...
}
