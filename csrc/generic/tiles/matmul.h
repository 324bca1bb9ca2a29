// C = finish(base + sum over terms of A B) by tiles, and its dot-product twin.
#pragma once

#include <array>
#include <utility>

#include "generic/tiles/open_matmul.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr int kPanelVectors = static_cast<int>(kPadBytes) / kVectorBytes;

// A block's accumulators fill the registers that a row of B's vectors and one scalar leave. kMostRows is by vectors.
#if FASTMAML_VECTOR_BYTES == 64
constexpr int kMostVectors = 3;
constexpr Index kMostRows[] = {0, 12, 12, 8};  // of 32 registers
#elif FASTMAML_VECTOR_BYTES == 32
constexpr int kMostVectors = 2;
constexpr Index kMostRows[] = {0, 10, 6};  // of 16
#else
constexpr int kMostVectors = 2;
constexpr Index kMostRows[] = {0, 8, 5};  // of 16, a product being one more
#endif

template <class T>
using Panel = void (*)(const Term<T>*, int, const Output<T>&, Index, Index, Index);

// The panels of one width, by their tiles' rows less one.
template <class T, int V, Finish F>
struct Panels {
  template <int... Less>
  static constexpr auto make(std::integer_sequence<int, Less...>) {
    return std::array<Panel<T>, sizeof...(Less)>{&panel<T, Less + 1, V, F>...};
  }
  static constexpr auto by_rows = make(std::make_integer_sequence<int, static_cast<int>(kMostRows[V])>{});
};

template <Finish F, class T, int V>
inline void column_block(const Term<T>* terms, int num_terms, const Output<T>& out, Index rows, Index column) {
  const Index piece = even_piece(rows, kMostRows[V]), rest = rows % piece;
  const auto& panels = Panels<T, V, F>::by_rows;
  panels[static_cast<std::size_t>(piece - 1)](terms, num_terms, out, 0, rows - rest, column);
  if (rest) panels[static_cast<std::size_t>(rest - 1)](terms, num_terms, out, rows - rest, rows, column);
}

template <Finish F, class T>
void matmul_as(Index rows, Index columns, const Term<T>* terms, int num_terms, const Output<T>& out) {
  if (terms->open || rows <= kFewRows) return open_matmul<F>(rows, columns, terms, num_terms, out);
  Index vectors = columns / kLanes<T>, column = 0;
  while (vectors > 0) {
    const Index width = even_piece(vectors, kMostVectors);
    if (width == 1) column_block<F, T, 1>(terms, num_terms, out, rows, column);
    else if (width == 2) column_block<F, T, 2>(terms, num_terms, out, rows, column);
    else column_block<F, T, kMostVectors>(terms, num_terms, out, rows, column);
    column += width * kLanes<T>;
    vectors -= width;
  }
}

// C [rows, columns] over the sum of the terms; columns is a multiple of the padding unit.
template <class T>
void matmul(Index rows, Index columns, const Term<T>* terms, int num_terms, const Output<T>& out) {
  if (rows == 0) return;
  switch (out.finish) {
    case Finish::store:
      return matmul_as<Finish::store>(rows, columns, terms, num_terms, out);
    case Finish::relu:
      return matmul_as<Finish::relu>(rows, columns, terms, num_terms, out);
    case Finish::gate:
      return matmul_as<Finish::gate>(rows, columns, terms, num_terms, out);
    case Finish::update:
      return matmul_as<Finish::update>(rows, columns, terms, num_terms, out);
    case Finish::scaled_update:
      return matmul_as<Finish::scaled_update>(rows, columns, terms, num_terms, out);
    case Finish::weighted_update:
      return matmul_as<Finish::weighted_update>(rows, columns, terms, num_terms, out);
  }
}

template <class T>
inline void matmul(Index rows, Index columns, const Term<T>& term, const Output<T>& out) {
  matmul(rows, columns, &term, 1, out);
}

// ---- the dot-product form: C[r, q] = sum over depth of A[r, :] B[q, :], both contiguous, depth padded ----

template <class T>
struct DotTerm {
  const T* a;
  Index a_row;
  const T* b;
  Index b_row;
  Index depth;
};

template <class T>
inline void finish_scalar(const Output<T>& out, T value, Index row, Index column) {
  if (out.base) value += out.base[row * out.base_row + column];
  if (out.finish == Finish::relu) value = value < T(0) ? T(0) : value;
  if (out.finish == Finish::gate) value = out.by[row * out.by_row + column] > T(0) ? value : T(0);
  out.c[row * out.c_row + column] = value;
}

template <class T, int R, int Q>
void dot_tile(const DotTerm<T>* terms, int num_terms, const Output<T>& out, Index row, Index column) {
  Wide<T> sum[R][Q] = {};
  for (int i = 0; i < num_terms; ++i) {
    const DotTerm<T>& term = terms[i];
    const T* a = term.a + row * term.a_row;
    const T* b = term.b + column * term.b_row;
    for (Index d = 0; d < term.depth; d += kLanes<T>) {
      Wide<T> b_wide[Q];
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) b_wide[q] = load<Wide<T>>(b + q * term.b_row + d);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Wide<T> a_wide = load<Wide<T>>(a + r * term.a_row + d);
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) sum[r][q] += a_wide * b_wide[q];
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) finish_scalar(out, horizontal_sum<T>(sum[r][q]), row + r, column + q);
}

template <class T, int Q>
inline void dot_columns(Index rows, const DotTerm<T>* terms, int num_terms, const Output<T>& out, Index column) {
  Index row = 0;
  for (; row + 4 <= rows; row += 4) dot_tile<T, 4, Q>(terms, num_terms, out, row, column);
  for (; row < rows; ++row) dot_tile<T, 1, Q>(terms, num_terms, out, row, column);
}

// Only the first `columns` of each row of C are written.
template <class T>
void matmul_dot(Index rows, Index columns, const DotTerm<T>* terms, int num_terms, const Output<T>& out) {
  Index column = 0;
  for (; column + 4 <= columns; column += 4) dot_columns<T, 4>(rows, terms, num_terms, out, column);
  for (; column < columns; ++column) dot_columns<T, 1>(rows, terms, num_terms, out, column);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
