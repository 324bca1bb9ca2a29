// The cross terms of three linear layers with ReLUs between them, as sums over samples that no direction enters.
//
// With masks m, n of the two ReLUs, inputs x and output adjoints e, the adjoints' part of a loss is
//   sum over k, i, j, o of S[k, i, o, j] U[k, i] V[i, j] W[o, j],   S[k, i, o, j] = sum over samples of x_k m_i n_j e_o,
// where U, V, W are the layers' weights. A bias is the weight of an input that is 1: x_k for the last k, m_i for the last i.
#pragma once

#include "sweep.h"

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

// Where the derivatives of a row of V, of W and of a column of U come from and go to.
template <class T>
struct CrossRow {
  const KeptForm<T>& form;
  const T* sums;             // S[k = 0, i]
  const T *v, *v_dot;        // V[i], V'[i]
  const T *w, *w_dot;        // W[0], W'[0]
  Index w_row;               // stride of W's rows
  const T *u, *u_dot;        // [inputs]: U[k, i], U'[k, i]
  T *v_out, *w_out;          // added to
  Wide<T>* u_out;            // [inputs], added to
};

template <class T>
inline void cross_block(const CrossRow<T>& row, Index j) {
  using V = Wide<T>;
  const KeptForm<T>& form = row.form;
  const V v = load<V>(row.v + j), v_dot = load<V>(row.v_dot + j);
  V v_sum = load<V>(row.v_out + j);
  for (Index o = 0; o < form.outputs; ++o) {
    const Index at = o * row.w_row + j;
    const V w = load<V>(row.w + at), w_dot = load<V>(row.w_dot + at), u_part = v_dot * w + v * w_dot;
    V w_sum = load<V>(row.w_out + at);
    const T* sums = row.sums + o * form.columns + j;
    for (Index k = 0; k < form.inputs; ++k, sums += form.rows * form.outputs * form.columns) {
      const V sum = load<V>(sums);
      v_sum += sum * (row.u[k] * w_dot + row.u_dot[k] * w);
      w_sum += sum * (row.u[k] * v_dot + row.u_dot[k] * v);
      row.u_out[k] += sum * u_part;
    }
    store(row.w_out + at, w_sum);
  }
  store(row.v_out + j, v_sum);
}

constexpr Index kMostCrossInputs = 16;

// Adds the cross terms' product with `direction`; all three are packed parameters.
template <class T>
void add_cross_product(const Network& network, const Shape<T>& shape, const KeptForm<T>& form, const T* theta,
                       const T* direction, const T* sums, T* product) {
  const LayerPlace<T>*p = shape.places, *q = p + 1, *t = p + 2;
  for (Index i = 0; i < form.rows; ++i) {
    T u[kMostCrossInputs] = {}, u_dot[kMostCrossInputs] = {};
    Wide<T> u_out[kMostCrossInputs] = {};
    const bool bias = i == network.layers[1].in;
    u[form.inputs - 1] = T(1);
    for (Index k = 0; k < form.inputs && !bias; ++k) {
      const Index at = p->weight + k * p->packed_width + i;
      u[k] = theta[at];
      u_dot[k] = direction[at];
    }
    const Index v = q->weight + i * q->packed_width, w = t->weight;
    const CrossRow<T> row{form,          sums + i * form.outputs * form.columns, theta + v, direction + v, theta + w,
                          direction + w, t->packed_width, u, u_dot, product + v, product + w, u_out};
    for (Index j = 0; j < whole_vectors<T>(network.layers[1].out); j += kLanes<T>) cross_block(row, j);
    for (Index k = 0; k < form.inputs && !bias; ++k)
      product[p->weight + k * p->packed_width + i] += horizontal_sum<T>(u_out[k]);
  }
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
