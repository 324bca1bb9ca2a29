// The register-blocked kernels of convolutions, without im2col: rows are pixels that lie anywhere, read one scalar
// at a time; columns are panels of kPanel channels. One kernel makes pixels, the other sums over pixels.
#pragma once

#include <type_traits>

#include "generic/tiles/matmul.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

#if FASTMAML_VECTOR_BYTES == 64
constexpr int kMostPanels = 4, kTileRows = 6, kNarrowTileRows = 8;  // 24 of 32 registers accumulate
#elif FASTMAML_VECTOR_BYTES == 32
constexpr int kMostPanels = 1, kTileRows = 6, kNarrowTileRows = 6;  // 12 of 16
#else
constexpr int kMostPanels = 1, kTileRows = 3, kNarrowTileRows = 3;  // 12 of 16
#endif

constexpr Index kPixelBlock = 48;    // pixels whose places are looked up at a time
constexpr Index kMaxTaps = 15 * 15;  // of a window; fastmaml/trace.py refuses larger ones

// `depth` scalars at a + (the pixel's place), times as many rows of a panel at b.
template <class T>
struct Run {
  const T* a;
  const T* b;
  Index depth;
};

// Places of pixels, in elements: inputs, results, and values that gate these.
struct Places {
  Index a[kPixelBlock], c[kPixelBlock], by[kPixelBlock];
};

// C = finish(bias + sum over runs); panels of b and of the bias lie `panel` and kPanel elements apart.
template <class T>
struct ConvOutput {
  T* c;
  const T* bias = nullptr;
  Finish finish = Finish::store;  // store, relu or gate
  const T* by = nullptr;
};

template <class T, int R, int P>
struct PixelTile {
  static constexpr int V = P * kPanelVectors;
  Wide<T> sum[R][V];

  static inline void load_row(const T* b, Index panel, Wide<T>* row) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) row[p * kPanelVectors + v] = load<Wide<T>>(b + p * panel + v * kLanes<T>);
  }

  inline void start(const T* bias) {
    Wide<T> row[V] = {};
    if (bias) load_row(bias, kPanel<T>, row);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = row[v];
  }

  inline void multiply(const Run<T>& run, Index panel, const Index* places) {
    const T* a[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) a[r] = run.a + places[r];
    const T* b = run.b;
    for (Index d = 0; d < run.depth; ++d, b += kPanel<T>) {
      Wide<T> row[V];
      load_row(b, panel, row);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Wide<T> scalar = splat<Wide<T>>(a[r][d]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] += scalar * row[v];
      }
    }
  }

  inline void end(const ConvOutput<T>& out, const Index* c, const Index* by) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        Wide<T> value = sum[r][v];
        if (out.finish == Finish::relu) value = relu(value);
        if (out.finish == Finish::gate) value = gate(value, load<Wide<T>>(out.by + by[r] + v * kLanes<T>));
        store(out.c + c[r] + v * kLanes<T>, value);
      }
  }
};

template <class T, int R, int P>
void pixel_tile(const Run<T>* runs, int num_runs, Index panel, const ConvOutput<T>& out, const Places& at, Index row) {
  PixelTile<T, R, P> tile;
  tile.start(out.bias);
  for (int i = 0; i < num_runs; ++i) tile.multiply(runs[i], panel, at.a + row);
  tile.end(out, at.c + row, at.by + row);
}

// Calls f<R>() for R = rows.
template <int Most, class F>
inline void with_rows(Index rows, F f) {
  if constexpr (Most > 1) {
    if (rows < Most) return with_rows<Most - 1>(rows, f);
  }
  f(std::integral_constant<int, Most>{});
}

// All rows of one block, P panels wide.
template <class T, int P>
void pixel_column(const Run<T>* runs, int num_runs, Index panel, const ConvOutput<T>& out, const Places& at,
                  Index rows) {
  constexpr int most = P * kPanelVectors > 2 || kMostPanels == 1 ? kTileRows : kNarrowTileRows;
  const Index piece = even_piece(rows, most);
  for (Index row = 0; row < rows; row += piece)
    with_rows<most>(rows - row < piece ? rows - row : piece,
                    [&](auto count) { pixel_tile<T, decltype(count)::value, P>(runs, num_runs, panel, out, at, row); });
}

// The first panel of the next P of them.
template <class T>
inline void advance(Run<T>* runs, int num_runs, Index panel, ConvOutput<T>& out, Index panels) {
  for (int i = 0; i < num_runs; ++i) runs[i].b += panels * panel;
  out.c += panels * kPanel<T>;
  if (out.bias) out.bias += panels * kPanel<T>;
  if (out.by) out.by += panels * kPanel<T>;
}

// One block of rows, all panels. The runs come back as they were.
template <class T>
void pixel_block(Run<T>* runs, int num_runs, Index panel, Index panels, ConvOutput<T> out, const Places& at,
                 Index rows) {
  for (Index left = panels; left > 0;) {
    Index wide = 1;
    if (kMostPanels >= 4 && left >= 4) {
      wide = 4;
      pixel_column<T, kMostPanels>(runs, num_runs, panel, out, at, rows);
    } else if (kMostPanels >= 2 && left >= 2) {
      wide = 2;
      pixel_column<T, (kMostPanels + 1) / 2>(runs, num_runs, panel, out, at, rows);
    } else {
      pixel_column<T, 1>(runs, num_runs, panel, out, at, rows);
    }
    advance(runs, num_runs, panel, out, wide);
    left -= wide;
  }
  for (int i = 0; i < num_runs; ++i) runs[i].b -= panels * panel;
}

// ---- sums over pixels: W[row] += sum over pixels of a[row's place + pixel's place] * b[pixel] ----

constexpr Index kChunk = 128;  // pixels summed at a time, of all terms: their b is packed, and stays in the first cache

// `b` holds the chunk's vectors of one panel, one after the other.
template <class T>
struct PixelSum {
  const T* a;
  const T* b;
};

template <class T, int R>
struct SumTile {
  Wide<T> sum[R][kPanelVectors];

  inline void start(const T* from) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v)
        sum[r][v] = from ? load<Wide<T>>(from + r * kPanel<T> + v * kLanes<T>) : Wide<T>{};
  }

  inline void add(const PixelSum<T>& term, const Index* rows, const Index* pixels, Index count) {
    const T* a[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) a[r] = term.a + rows[r];
    const T* b = term.b;
    for (Index p = 0; p < count; ++p, b += kPanel<T>) {
      const Index at = pixels[p];
      Wide<T> row[kPanelVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) row[v] = load<Wide<T>>(b + v * kLanes<T>);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Wide<T> scalar = splat<Wide<T>>(a[r][at]);
#pragma GCC unroll 4
        for (int v = 0; v < kPanelVectors; ++v) sum[r][v] += scalar * row[v];
      }
    }
  }

  inline void end(T* to) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kPanelVectors; ++v) store(to + r * kPanel<T> + v * kLanes<T>, sum[r][v]);
  }
};

constexpr int kSumRows = FASTMAML_VECTOR_BYTES == 64 ? 12 : kTileRows;

// sums [rows, kPanel] over one chunk of pixels, added to what is there unless it is the first chunk
template <class T>
void sum_chunk(const PixelSum<T>* terms, int num_terms, const Index* row_places, Index rows, const Index* pixels,
               Index count, bool first, T* sums) {
  const Index piece = even_piece(rows, kSumRows);
  for (Index row = 0; row < rows; row += piece)
    with_rows<kSumRows>(rows - row < piece ? rows - row : piece, [&](auto most) {
      SumTile<T, decltype(most)::value> tile;
      tile.start(first ? nullptr : sums + row * kPanel<T>);
      for (int i = 0; i < num_terms; ++i) tile.add(terms[i], row_places + row, pixels, count);
      tile.end(sums + row * kPanel<T>);
    });
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
