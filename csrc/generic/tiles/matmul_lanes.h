// Products of a group of tasks, C = finish(base + sum over terms of A B) for each task by itself, one task a lane.
// Strides and places count numbers, each of which is a vector of all lanes; but where an Output's `by` weighs an
// update, it holds one scalar for each number, the same for all tasks.
#pragma once

#include "generic/tiles/matmul.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
inline Wide<T> lanes_at(const T* base, Index number) {
  return load<Wide<T>>(base + number * kLanes<T>);
}

template <class T>
inline void put_lanes(T* base, Index number, Wide<T> value) {
  store(base + number * kLanes<T>, value);
}

// Keeps a number that several products use from being loaded once for each: loads are what these kernels are short of.
template <class V>
inline void keep_loaded(V& value) {
#if defined(__x86_64__) && (FASTMAML_VECTOR_BYTES < 64 || defined(__AVX512F__))  // where one register holds it
  asm("" : "+v"(value));
#else
  (void)value;
#endif
}

// A [rows, depth], B [depth, columns]
template <class T>
struct LaneTerm {
  const T* a;
  Index a_row, a_depth;
  const T* b;
  Index b_depth, b_column;
  Index depth;
};

// Accumulators, a row of B and one number of A fill the registers.
#if FASTMAML_VECTOR_BYTES == 64
constexpr Index kMostLaneRows[] = {0, 14, 12};  // by columns, of 32 registers
#elif FASTMAML_VECTOR_BYTES == 32
constexpr Index kMostLaneRows[] = {0, 12, 6};  // of 16
#else
constexpr Index kMostLaneRows[] = {0, 10, 5};  // of 16, a product being one more
#endif
constexpr int kMostLaneColumns = 2;

// R rows of C numbers, all accumulated in registers.
template <class T, int R, int C>
struct LaneTile {
  Wide<T> sums[R][C];

  inline void clear() {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) sums[r][c] = Wide<T>{};
    }
  }

  inline void multiply(const LaneTerm<T>& term, Index row, Index column) {
    const Index a_row = term.a_row * kLanes<T>, a_depth = term.a_depth * kLanes<T>;
    const Index b_depth = term.b_depth * kLanes<T>, b_column = term.b_column * kLanes<T>;
    const T* a = term.a + row * a_row;
    const T* b = term.b + column * b_column;
    for (Index d = term.depth; d > 0; --d, a += a_depth, b += b_depth) {
      Wide<T> numbers[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) numbers[c] = load<Wide<T>>(b + c * b_column);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        Wide<T> number = load<Wide<T>>(a + r * a_row);
        if constexpr (C > 1) keep_loaded(number);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r][c] += number * numbers[c];
      }
    }
  }

  // Calls each(row, column, sum) for all of them.
  template <class Each>
  inline void visit(Each each) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) each(r, c, sums[r][c]);
    }
  }

  inline void add_base(const Output<T>& out, Index row, Index column) {
    const T* base = out.base + (row * out.base_row + column) * kLanes<T>;
    visit([=](Index r, Index c, Wide<T>& sum) { sum += lanes_at(base, r * out.base_row + c); });
  }

  inline void end(const Output<T>& out, Index row, Index column) {
    T* to = out.c + (row * out.c_row + column) * kLanes<T>;
    const Index width = out.c_row;
    const auto put = [=](Index r, Index c, Wide<T> value) { put_lanes(to, r * width + c, value); };
    switch (out.finish) {
      case Finish::gate: {
        const T* by = out.by + (row * out.by_row + column) * kLanes<T>;
        return visit([=](Index r, Index c, Wide<T> sum) { put(r, c, gate(sum, lanes_at(by, r * out.by_row + c))); });
      }
      case Finish::relu:
        return visit([=](Index r, Index c, Wide<T> sum) { put(r, c, relu(sum)); });
      case Finish::scaled_update: {
        const T* base = out.base + (row * out.base_row + column) * kLanes<T>;
        const Wide<T> scale = splat<Wide<T>>(out.scale);
        return visit(
            [=](Index r, Index c, Wide<T> sum) { put(r, c, lanes_at(base, r * out.base_row + c) - scale * sum); });
      }
      case Finish::weighted_update: {
        const T* base = out.base + (row * out.base_row + column) * kLanes<T>;
        const T* by = out.by + row * out.by_row + column;
        return visit([=](Index r, Index c, Wide<T> sum) {
          put(r, c, lanes_at(base, r * out.base_row + c) - splat<Wide<T>>(by[r * out.by_row + c]) * sum);
        });
      }
      default:
        return visit(put);
    }
  }
};

// Tiles of R rows, one below the other, from `row` to `last`. At least one tile.
template <class T, int R, int C>
void lane_panel(const LaneTerm<T>* terms, int num_terms, const Output<T>& given, Index row, Index last, Index column) {
  const Output<T> out = given;  // a copy that no store through `c` can change
  const bool adds = out.base && out.finish != Finish::scaled_update && out.finish != Finish::weighted_update;
  for (; row < last; row += R) {
    LaneTile<T, R, C> tile;
    tile.clear();
    for (int i = 0; i < num_terms; ++i) tile.multiply(terms[i], row, column);
    if (adds) tile.add_base(out, row, column);
    tile.end(out, row, column);
  }
}

template <class T>
using LanePanel = void (*)(const LaneTerm<T>*, int, const Output<T>&, Index, Index, Index);

// The panels of one width, by their tiles' rows less one.
template <class T, int C>
struct LanePanels {
  template <int... Less>
  static constexpr auto make(std::integer_sequence<int, Less...>) {
    return std::array<LanePanel<T>, sizeof...(Less)>{&lane_panel<T, Less + 1, C>...};
  }
  static constexpr auto by_rows = make(std::make_integer_sequence<int, static_cast<int>(kMostLaneRows[C])>{});
};

template <class T, int C>
inline void lane_columns(const LaneTerm<T>* terms, int num_terms, const Output<T>& out, Index rows, Index first,
                         Index last) {
  const Index piece = even_piece(rows, kMostLaneRows[C]), rest = rows % piece;
  const auto& panels = LanePanels<T, C>::by_rows;
  const LanePanel<T> whole = panels[static_cast<std::size_t>(piece - 1)];
  const LanePanel<T> remainder = rest ? panels[static_cast<std::size_t>(rest - 1)] : nullptr;
  for (Index column = first; column < last; column += C) {
    whole(terms, num_terms, out, 0, rows - rest, column);
    if (remainder) remainder(terms, num_terms, out, rows - rest, rows, column);
  }
}

// C [rows, columns] over the sum of the terms
template <class T>
void lane_matmul(Index rows, Index columns, const LaneTerm<T>* terms, int num_terms, const Output<T>& out) {
  const Index odd = columns % kMostLaneColumns;
  lane_columns<T, kMostLaneColumns>(terms, num_terms, out, rows, 0, columns - odd);
  if (odd) lane_columns<T, 1>(terms, num_terms, out, rows, columns - 1, columns);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
