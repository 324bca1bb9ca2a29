// The one register-blocked inner kernel, a tile of C = finish(base + sum over terms of A B), and columns of tiles.
#pragma once

#include "generic/tiles/simd.h"
#include "plain/network.h"

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
  const Bits* open = nullptr;  // of each row of A: which elements may differ from zero; others have it if the first has
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

// Pieces of nearly equal size, none larger than `most`.
constexpr Index even_piece(Index count, Index most) {
  if (count <= most) return count;
  const unsigned pieces = static_cast<unsigned>((count + most - 1) / most);
  return static_cast<Index>((static_cast<unsigned>(count) + pieces - 1) / pieces);
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

  // Only what is open in some row.
  inline void multiply_open(const Term<T>& term, Index row, Index column) {
    const T* a = term.a + row * term.a_row;
    const T* b = term.b + column;
    Bits open = 0;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) open |= term.open[row + r];
    for (; open; open &= open - 1) {
      const Index d = __builtin_ctzll(open);
      const T* from = b + d * term.b_depth;
      Wide<T> scalars[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) scalars[r] = splat<Wide<T>>(a[r * term.a_row + d]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Wide<T> vector = load<Wide<T>>(from + v * kLanes<T>);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) accumulate(sums[r][v], scalars[r], vector);
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
template <class T, int R, int V, Finish F, bool Open = false>
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
    do {
      if (Open && term->open) tile.multiply_open(*term, row, column);
      else tile.multiply(*term, row, column);
    } while (++term != terms + num_terms);
    tile.end(out, at);
    at.advance(out, R);
    row += R;
  } while (row < last);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
