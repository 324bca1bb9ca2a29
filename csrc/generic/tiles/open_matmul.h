// Which units of a hidden layer a sample opens, as bits, and products that skip what a ReLU has closed.
// A tile reads what is open in any of its rows. Samples in the order of their one input (generic/layers/sample_order.h)
// have neighbours that open nearly the same units: two rows of a tile then leave about half of them out.
#pragma once

#include <utility>

#include "generic/tiles/sign_bits.h"
#include "generic/tiles/tile.h"

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

// Wide tiles of few rows, so that little is open in each. They also suit products of very few rows, kFewRows at most.
#if FASTMAML_VECTOR_BYTES == 64
constexpr int kOpenRows = 4, kOpenVectors = 3, kFewRows = 1;
#else
constexpr int kOpenRows = 2, kOpenVectors = 5, kFewRows = 2;
#endif

template <class T, int V, Finish F>
void open_columns(const Term<T>* terms, int num_terms, const Output<T>& out, Index rows, Index column) {
  const Index whole = rows / kOpenRows * kOpenRows;
  if (whole) panel<T, kOpenRows, V, F, true>(terms, num_terms, out, 0, whole, column);
  if (whole < rows) panel<T, 1, V, F, true>(terms, num_terms, out, whole, rows, column);
}

template <class T, Finish F, int... Less>
void open_columns(int vectors, const Term<T>* terms, int num_terms, const Output<T>& out, Index rows, Index column,
                  std::integer_sequence<int, Less...>) {
  ((vectors == Less + 1 ? open_columns<T, Less + 1, F>(terms, num_terms, out, rows, column) : void()), ...);
}

// As matmul.
template <Finish F, class T>
void open_matmul(Index rows, Index columns, const Term<T>* terms, int num_terms, const Output<T>& out) {
  Index vectors = columns / kLanes<T>;
  for (Index column = 0; vectors > 0;) {
    const Index width = even_piece(vectors, kOpenVectors);
    open_columns<T, F>(static_cast<int>(width), terms, num_terms, out, rows, column,
                       std::make_integer_sequence<int, kOpenVectors>{});
    column += width * kLanes<T>;
    vectors -= width;
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
