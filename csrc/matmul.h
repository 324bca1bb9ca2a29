// The one register-blocked inner kernel: C = finish(base + sum over terms of A B), and its dot-product twin.
#pragma once

#include "network.h"
#include "simd.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// A [rows, depth] is read one scalar at a time through any strides; B [depth, columns] in whole vectors.
template <class T>
struct Term {
  const T* a;
  Index a_row, a_depth;
  const T* b;
  Index b_depth;
  Index depth;
};

enum class Finish { store, relu, gate, update };

// store: C = v       relu: C = max(v, 0)       gate: C = by > 0 ? v : 0       update: C = by_base - scale v
template <class T>
struct Output {
  T* c;
  Index c_row;
  Finish finish = Finish::store;
  const T* base = nullptr;  // added (for update: subtracted from); row stride base_row, may be 0
  Index base_row = 0;
  const T* by = nullptr;  // gate: the gating values; update: the scale, nullptr for 1
  Index by_row = 0;
};

#if FASTMAML_VECTOR_BYTES == 64
constexpr int kRows = 8, kColumns = 3;  // 24 of 32 registers accumulate
#elif FASTMAML_VECTOR_BYTES == 32
constexpr int kRows = 4, kColumns = 3;  // 12 of 16
#else
constexpr int kRows = 4, kColumns = 2;  // 8 of 16
#endif

template <Finish F, class V, class T>
inline void finish(const Output<T>& out, V value, Index row, Index column) {
  T* c = out.c + row * out.c_row + column;
  if constexpr (F == Finish::update) {
    if (out.by) value *= load<V>(out.by + row * out.by_row + column);
    store(c, load<V>(out.base + row * out.base_row + column) - value);
  } else if constexpr (F == Finish::relu) {
    store(c, relu(value));
  } else if constexpr (F == Finish::gate) {
    store(c, gate(value, load<V>(out.by + row * out.by_row + column)));
  } else {
    store(c, value);
  }
}

// R rows, V whole vectors and (H = 1) one half vector of columns, all accumulated in registers.
template <class T, int R, int V, int H>
struct Tile {
  Wide<T> wide[R][V > 0 ? V : 1];
  Half<T> half[R];

  inline void start(const Output<T>& out, Index row, Index column) {
    const bool from_base = out.base && out.finish != Finish::update;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T* base = from_base ? out.base + (row + r) * out.base_row + column : nullptr;
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) wide[r][v] = base ? load<Wide<T>>(base + v * kLanes<T>) : Wide<T>{};
      if constexpr (H > 0) half[r] = base ? load<Half<T>>(base + V * kLanes<T>) : Half<T>{};
    }
  }

  inline void multiply(const Term<T>& term, Index row, Index column) {
    const T* a = term.a + row * term.a_row;
    const T* b = term.b + column;
    for (Index d = 0; d < term.depth; ++d, a += term.a_depth, b += term.b_depth) {
      Wide<T> b_wide[V > 0 ? V : 1];
      Half<T> b_half{};
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) b_wide[v] = load<Wide<T>>(b + v * kLanes<T>);
      if constexpr (H > 0) b_half = load<Half<T>>(b + V * kLanes<T>);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Wide<T> scalar = splat<Wide<T>>(a[r * term.a_row]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) wide[r][v] += scalar * b_wide[v];
        if constexpr (H > 0) half[r] += lower_half<T>(scalar) * b_half;
      }
    }
  }

  template <Finish F>
  inline void end(const Output<T>& out, Index row, Index column) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) finish<F>(out, wide[r][v], row + r, column + v * kLanes<T>);
      if constexpr (H > 0) finish<F>(out, half[r], row + r, column + V * kLanes<T>);
    }
  }
};

template <class T, int R, int V, int H>
void tile(const Term<T>* terms, int num_terms, const Output<T>& out, Index row, Index column) {
  Tile<T, R, V, H> t;
  t.start(out, row, column);
  for (int i = 0; i < num_terms; ++i) t.multiply(terms[i], row, column);
  switch (out.finish) {
    case Finish::store:
      return t.template end<Finish::store>(out, row, column);
    case Finish::relu:
      return t.template end<Finish::relu>(out, row, column);
    case Finish::gate:
      return t.template end<Finish::gate>(out, row, column);
    case Finish::update:
      return t.template end<Finish::update>(out, row, column);
  }
}

template <class T>
using TileFunction = void (*)(const Term<T>*, int, const Output<T>&, Index, Index);

// [rows - 1][whole vectors][half]; entry [.][0][0] is never called.
template <class T, int R>
struct TileRow {
  template <int V>
  static constexpr TileFunction<T> whole() {
    if constexpr (V == 0 || V > kColumns) return nullptr;
    else return &tile<T, R, V, 0>;
  }
  template <int V>
  static constexpr TileFunction<T> with_half() {
    if constexpr (!kHasHalf || V + 1 > kColumns) return nullptr;
    else return &tile<T, R, V, 1>;
  }
  static constexpr TileFunction<T> table[4][2] = {{whole<0>(), with_half<0>()},
                                                  {whole<1>(), with_half<1>()},
                                                  {whole<2>(), with_half<2>()},
                                                  {whole<3>(), with_half<3>()}};
};

template <class T>
inline TileFunction<T> choose_tile(int rows, int whole, int half) {
  switch (rows) {
    case 1:
      return TileRow<T, 1>::table[whole][half];
    case 2:
      return TileRow<T, 2>::table[whole][half];
    case 3:
      return TileRow<T, 3>::table[whole][half];
    case 4:
      return TileRow<T, 4>::table[whole][half];
#if FASTMAML_VECTOR_BYTES == 64
    case 5:
      return TileRow<T, 5>::table[whole][half];
    case 6:
      return TileRow<T, 6>::table[whole][half];
    case 7:
      return TileRow<T, 7>::table[whole][half];
    case 8:
      return TileRow<T, 8>::table[whole][half];
#endif
    default:
      return nullptr;
  }
}

// Pieces of nearly equal size, none larger than `most`.
inline Index even_piece(Index count, Index most) {
  if (count <= most) return count;
  const Index pieces = (count + most - 1) / most;
  return (count + pieces - 1) / pieces;
}

template <class T>
inline void column_block(const Term<T>* terms, int num_terms, const Output<T>& out, Index rows, Index column, int whole,
                         int half) {
  const Index piece = even_piece(rows, kRows);
  const TileFunction<T> full = choose_tile<T>(static_cast<int>(piece), whole, half);
  Index row = 0;
  for (; row + piece <= rows; row += piece) full(terms, num_terms, out, row, column);
  if (row < rows) choose_tile<T>(static_cast<int>(rows - row), whole, half)(terms, num_terms, out, row, column);
}

// C [rows, columns] over the sum of the terms; columns is a multiple of the padding unit.
template <class T>
void matmul(Index rows, Index columns, const Term<T>* terms, int num_terms, const Output<T>& out) {
  if (rows == 0) return;
  Index whole = columns / kLanes<T>;
  int half = columns % kLanes<T> ? 1 : 0;
  Index column = 0;
  while (whole + half > kColumns) {
    const Index piece = even_piece(whole, kColumns);
    column_block(terms, num_terms, out, rows, column, static_cast<int>(piece), 0);
    column += piece * kLanes<T>;
    whole -= piece;
  }
  if (whole + half > 0) column_block(terms, num_terms, out, rows, column, static_cast<int>(whole), half);
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
  Half<T> rest[R][Q] = {};
  for (int i = 0; i < num_terms; ++i) {
    const DotTerm<T>& term = terms[i];
    const T* a = term.a + row * term.a_row;
    const T* b = term.b + column * term.b_row;
    Index d = 0;
    for (; d + kLanes<T> <= term.depth; d += kLanes<T>) {
      Wide<T> b_wide[Q];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) b_wide[q] = load<Wide<T>>(b + q * term.b_row + d);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Wide<T> a_wide = load<Wide<T>>(a + r * term.a_row + d);
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) sum[r][q] += a_wide * b_wide[q];
      }
    }
    if (kHasHalf && d < term.depth) {
      for (int r = 0; r < R; ++r)
        for (int q = 0; q < Q; ++q)
          rest[r][q] += load<Half<T>>(a + r * term.a_row + d) * load<Half<T>>(b + q * term.b_row + d);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) {
      const T total = horizontal_sum<T>(sum[r][q]) + (kHasHalf ? horizontal_sum<T>(rest[r][q]) : T(0));
      finish_scalar(out, total, row + r, column + q);
    }
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
