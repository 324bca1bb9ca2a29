// Pieces of linearised samples as smaller networks: of the hidden layers only the units that some sample of the piece
// opens. docs/reinforcement.md says why.
#pragma once

#include "generic/passes/network.h"
#include "plain/linearised.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

constexpr double kWorthwhile = 0.6;  // share of the products beyond which moving parameters costs more than it saves

// The units that some row opens, in their order; one at least.
template <class T>
Index list_active(const Sweep<T>& s, Index l, std::int32_t* units) {
  const LayerPlace<T>& p = s.place(l);
  Index count = 0;
  for (Index c = 0; c < s.layer(l).in; c += kLanes<T>) {
    Wide<T> seen{};
    for (Index r = 0; r < s.n; ++r) {
      const Wide<T> value = load<Wide<T>>(s.input(l) + r * p.input_width + c);
      seen = value != Wide<T>{} ? splat<Wide<T>>(T(1)) : seen;
    }
    for (Index i = 0; i < kLanes<T> && c + i < s.layer(l).in; ++i)
      if (seen[i] != T(0)) units[count++] = static_cast<std::int32_t>(c + i);
  }
  if (count == 0) units[count++] = 0;
  return count;
}

// Finds the units of a piece, whose forward pass has been made, and whether they are few enough.
template <class T>
void find_active(const Sweep<T>& s, const KeptForm<T>& form, ActivePiece<T>& piece) {
  double products = 0, all = 0;
  for (Index l = 1; l < form.linears; ++l) {
    std::int32_t* units = piece.units + l * form.list;
    const Index count = list_active(s, l, units);
    units[count] = static_cast<std::int32_t>(s.layer(l).in);
    piece.layers[l].in = piece.layers[l - 1].out = count;
    piece.places[l].input_width = piece.places[l - 1].output_width = padded<T>(count + 1);
    if (l == 1) continue;
    products += static_cast<double>(piece.layers[l - 1].in) * static_cast<double>(count);
    all += static_cast<double>(s.layer(l - 1).in) * static_cast<double>(s.layer(l).in);
  }
  piece.smaller = products < kWorthwhile * all;
  for (Index l = 0; l < form.linears; ++l) {
    const Layer& layer = piece.layers[l];
    const Index inputs = layer.in + (layer.bias >= 0 ? 1 : 0);
    const bool outputs = layer.layout == Layout::outputs_in_lanes;
    piece.places[l].packed_rows = outputs ? inputs : layer.out;
    piece.places[l].packed_width = padded<T>(outputs ? layer.out : layer.in + 1);
  }
}

// Calls row(place in the whole network, place in the smaller one, columns, count, width) for every row of packed
// weights from layer `first` on: `count` elements of the smaller one's row are the whole one's at `columns`. Appended
// parameters come one by one, at column 0.
template <class T, class Row>
void for_active_rows(const Shape<T>& whole, const KeptForm<T>& form, const ActivePiece<T>& piece, Index first,
                     Row row) {
  for (Index l = first; l < form.linears; ++l) {
    const Layer& layer = piece.layers[l];
    const LayerPlace<T>&from = whole.places[l], &to = piece.places[l];
    const bool outputs = layer.layout == Layout::outputs_in_lanes;
    const std::int32_t *in = piece.units + l * form.list, *out = in + form.list;
    const Index inputs = layer.in + (layer.bias >= 0 ? 1 : 0);
    const std::int32_t *rows = outputs ? in : out, *columns = outputs ? out : in;
    for (Index r = 0; r < to.packed_rows; ++r)
      row(from.weight + rows[r] * from.packed_width, to.weight + r * to.packed_width, columns,
          outputs ? layer.out : inputs, to.packed_width);
  }
  if (piece.network.depth == form.linears) return;
  const Layer& append = piece.layers[form.linears];
  const Index shift = whole.places[form.linears].shift, count = append.out - append.in;
  for (Index c = 0; c < count; ++c) row(shift + c, shift + c, piece.units, Index(1), Index(1));
}

// The smaller network's packed parameters, from layer `first` on.
template <class T>
void take_active(const Shape<T>& whole, const KeptForm<T>& form, const ActivePiece<T>& piece, Index first,
                 const T* from, T* to) {
  for_active_rows(whole, form, piece, first,
                  [=](Index at, Index small, const std::int32_t* columns, Index count, Index width) {
                    for (Index c = 0; c < count; ++c) to[small + c] = from[at + columns[c]];
                    for (Index c = count; c < width; ++c) to[small + c] = T(0);
                  });
}

// Adds what belongs to the smaller network's parameters to the whole one's.
template <class T>
void add_active(const Shape<T>& whole, const KeptForm<T>& form, const ActivePiece<T>& piece, const T* from, T* to) {
  for_active_rows(whole, form, piece, 0, [=](Index at, Index small, const std::int32_t* columns, Index count, Index) {
    for (Index c = 0; c < count; ++c) to[at + columns[c]] += from[small + c];
  });
}

template <class T>
void prefetch(const T* from, Index count) {
  for (Index i = 0; i < count; i += kPanel<T>) __builtin_prefetch(from + i, 0, 2);
}

// A thread's tangents serve pieces of any number of units: what another has left beyond the last ones must be zero,
// where the bias's one meets it.
template <class T>
void clear_beyond(const Sweep<T>& d, const KeptForm<T>& form) {
  for (Index l = 1; l < form.linears; ++l) {
    const Index first = whole_vectors<T>(d.layer(l).in), width = d.place(l).input_width;
    if (first == width) continue;
    for (Index r = 0; r < d.n; ++r) store(d.input(l) + r * width + first, Wide<T>{});
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
