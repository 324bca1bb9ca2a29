// The one register-blocked inner kernel: C = finish(base + sum over terms of A B), and its dot-product twin.
#pragma once

#include <array>
#include <utility>

#include "network.h"
#include "simd.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr int kPanelVectors = static_cast<int>(kPadBytes) / kVectorBytes;

// A [rows, depth] is read one scalar at a time through any strides; B [depth, columns] in whole vectors.
template <class T>
struct Term {
  const T* a;
  Index a_row, a_depth;
  const T* b;
  Index b_depth;
  Index depth;
};

enum class Finish { store, relu, gate, update, scaled_update, weighted_update };

// store:  C = base + v       relu: C = max(base + v, 0)       gate: C = by > 0 ? base + v : 0
// update: C = base - v       scaled_update: C = base - scale v       weighted_update: C = base - by v
template <class T>
struct Output {
  T* c;
  Index c_row;
  Finish finish = Finish::store;
  const T* base = nullptr;  // may be null but for updates; row stride base_row, may be 0
  Index base_row = 0;
  const T* by = nullptr;
  Index by_row = 0;
  T scale = T(1);
};

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

// One row of an output from some column on.
template <class T>
struct OutputRow {
  T* c;
  const T* base;
  const T* by;

  inline void advance(const Output<T>& out, Index rows) {
    c += rows * out.c_row;
    if (base) base += rows * out.base_row;
    if (by) by += rows * out.by_row;
  }
};

template <Finish F, class V, class T>
inline void finish(const OutputRow<T>& row, V value, V scale, int column) {
  if constexpr (F == Finish::scaled_update) value = load<V>(row.base + column) - scale * value;
  if constexpr (F == Finish::weighted_update) value = load<V>(row.base + column) - load<V>(row.by + column) * value;
  if constexpr (F == Finish::relu) value = relu(value);
  if constexpr (F == Finish::gate) value = gate(value, load<V>(row.by + column));
  store(row.c + column, value);
}

// R rows of V vectors, all accumulated in registers.
template <class T, int R, int V, Finish F>
struct Tile {
  Wide<T> sums[R][V];

  inline void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = Wide<T>{};
    }
  }

  inline void start_from(const T* base, Index stride) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, base += stride) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[r][v] = load<Wide<T>>(base + v * kLanes<T>);
    }
  }

  template <class X>
  static inline void accumulate(X& sum, X a, X b) {
    if constexpr (F == Finish::update) sum -= a * b;
    else sum += a * b;
  }

  inline void multiply(const Term<T>& term, Index row, Index column) {
    const Index a_row = term.a_row, a_depth = term.a_depth, b_depth = term.b_depth;
    const T* a = term.a + row * a_row;
    const T* b = term.b + column;
    for (Index d = term.depth; d > 0; --d, a += a_depth, b += b_depth) {
      Wide<T> vectors[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) vectors[v] = load<Wide<T>>(b + v * kLanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Wide<T> scalar = splat<Wide<T>>(a[r * a_row]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) accumulate(sums[r][v], scalar, vectors[v]);
      }
    }
  }

  inline void end(const Output<T>& out, OutputRow<T> row) {
    const Wide<T> scale = splat<Wide<T>>(out.scale);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) finish<F>(row, sums[r][v], scale, v * kLanes<T>);
      row.advance(out, 1);
    }
  }
};

// Tiles of R rows, one below the other, from `row` to `last`. At least one term, at least one tile.
template <class T, int R, int V, Finish F>
void panel(const Term<T>* terms, int num_terms, const Output<T>& given, Index row, Index last, Index column) {
  constexpr bool starts_from_base = F != Finish::scaled_update && F != Finish::weighted_update;
  const Output<T> out = given;  // a copy that no store through `c` can change
  OutputRow<T> at{out.c + column, out.base ? out.base + column : nullptr, out.by ? out.by + column : nullptr};
  at.advance(out, row);
  do {
    Tile<T, R, V, F> tile;
    if (starts_from_base && at.base) tile.start_from(at.base, out.base_row);
    else tile.clear();
    const Term<T>* term = terms;
    do tile.multiply(*term, row, column);
    while (++term != terms + num_terms);
    tile.end(out, at);
    at.advance(out, R);
    row += R;
  } while (row < last);
}

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

// Pieces of nearly equal size, none larger than `most`.
constexpr Index even_piece(Index count, Index most) {
  if (count <= most) return count;
  const unsigned pieces = static_cast<unsigned>((count + most - 1) / most);
  return static_cast<Index>((static_cast<unsigned>(count) + pieces - 1) / pieces);
}

template <Finish F, class T, int V>
inline void column_block(const Term<T>* terms, int num_terms, const Output<T>& out, Index rows, Index column) {
  const Index piece = even_piece(rows, kMostRows[V]), rest = rows % piece;
  const auto& panels = Panels<T, V, F>::by_rows;
  panels[static_cast<std::size_t>(piece - 1)](terms, num_terms, out, 0, rows - rest, column);
  if (rest) panels[static_cast<std::size_t>(rest - 1)](terms, num_terms, out, rows - rest, rows, column);
}

template <Finish F, class T>
void matmul_as(Index rows, Index columns, const Term<T>* terms, int num_terms, const Output<T>& out) {
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
