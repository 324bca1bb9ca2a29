// The cross terms of three linear layers with ReLUs between them, as sums over samples that no direction enters.
//
// With masks m, n of the two ReLUs, inputs x and output adjoints e, the adjoints' part of a loss is
//   sum over k, i, j, o of S[k, i, o, j] U[k, i] V[i, j] W[o, j],   S[k, i, o, j] = sum over samples of x_k m_i n_j
//   e_o,
// where U, V, W are the layers' weights. A bias is the weight of an input that is 1: x_k for the last k, m_i for the
// last i.
#pragma once

#include "generic/layers/sweep.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// left [n, inputs, rows] = x_k m_i. Whole vectors run over into what is written after them, at last into the padding.
template <class T>
void cross_left(const Sweep<T>& s, const KeptForm<T>& form, T* left) {
  for (Index r = 0; r < s.n; ++r)
    for (Index k = 0; k < form.inputs; ++k, left += form.rows)
      for (Index i = 0; i < form.rows; i += kLanes<T>)
        store(left + i, gate(splat<Wide<T>>(s.data[r * s.place(0).input_width + k]),
                             load<Wide<T>>(s.input(1) + r * s.place(1).input_width + i)));
}

// right [n, outputs, columns] = n_j e_o, zero beyond the last j
template <class T>
void cross_right(const Sweep<T>& s, const KeptForm<T>& form, T* right) {
  const LayerPlace<T>& p = s.place(2);
  for (Index r = 0; r < s.n; ++r)
    for (Index o = 0; o < form.outputs; ++o, right += form.columns) {
      const T adjoint = s.output_delta(2)[r * p.output_width + o];
      const T* by = s.input(2) + r * p.input_width;
      for (Index j = 0; j < form.columns; ++j) right[j] = j < s.layer(2).in && by[j] > T(0) ? adjoint : T(0);
    }
}

// Adds the samples of a piece, or makes the sums theirs.
template <class T>
void keep_cross_sums(const Sweep<T>& s, const KeptForm<T>& form, T* tangents, bool first, T* sums) {
  T *left = tangents + form.left, *right = tangents + form.right;
  cross_left(s, form, left);
  cross_right(s, form, right);
  const Index rows = form.inputs * form.rows, columns = form.outputs * form.columns;
  const Term<T> term{left, 1, rows, right, columns, s.n};
  matmul(rows, columns, term, Output<T>{sums, columns, Finish::store, first ? nullptr : sums, columns});
}

// Of one k, i and o over all j: v and w are rows V[i], W[o] with their directions, u and u_dot stand for U[k, i].
template <class T>
struct CrossRow {
  const T *sums, *v, *v_dot, *w, *w_dot;
  T u, u_dot;
  T *v_out, *w_out;  // added to
};

// Gives what is to be added to U[k, i].
template <class T>
inline T cross_row(const CrossRow<T>& row, Index columns) {
  using V = Wide<T>;
  const V u = splat<V>(row.u), u_dot = splat<V>(row.u_dot);
  V u_out = {};
  for (Index j = 0; j < columns; j += kLanes<T>) {
    const V sum = load<V>(row.sums + j), v = load<V>(row.v + j), v_dot = load<V>(row.v_dot + j);
    const V w = load<V>(row.w + j), w_dot = load<V>(row.w_dot + j);
    store(row.v_out + j, load<V>(row.v_out + j) + sum * (u * w_dot + u_dot * w));
    store(row.w_out + j, load<V>(row.w_out + j) + sum * (u * v_dot + u_dot * v));
    u_out += sum * (v_dot * w + v * w_dot);
  }
  return horizontal_sum<T>(u_out);
}

// Adds the cross terms' product with `direction`; all three are packed parameters.
template <class T>
void add_cross_product(const Network& network, const Shape<T>& shape, const KeptForm<T>& form, const T* theta,
                       const T* direction, const T* sums, T* product) {
  const LayerPlace<T>*p = shape.places, *q = p + 1, *t = p + 2;
  const Index columns = whole_vectors<T>(network.layers[1].out);
  for (Index k = 0; k < form.inputs; ++k)
    for (Index i = 0; i < form.rows; ++i) {
      const bool one = i == network.layers[1].in, bias = k == form.inputs - 1;  // the input that is one has no weights
      const Index u = p->weight + k * p->packed_width + i, v = q->weight + i * q->packed_width;
      for (Index o = 0; o < form.outputs; ++o, sums += form.columns) {
        if (one && !bias) continue;
        const Index w = t->weight + o * t->packed_width;
        const T added = cross_row<T>({sums, theta + v, direction + v, theta + w, direction + w, one ? T(1) : theta[u],
                                      one ? T(0) : direction[u], product + v, product + w},
                                     columns);
        if (!one) product[u] += added;
      }
    }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
