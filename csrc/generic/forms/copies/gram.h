// A wide first layer without per-task weight copies.
//
// Plain SGD only ever adds combinations of the support samples to W:  W_k = W_0 - lr sum_j delta_j^T X_s.
// So  X W_k^T = X W_0^T - lr (X X_s^T) sum_j delta_j,  and it is enough to keep the coefficients
// C_k = sum_j delta_j [N, out]. The bias is one more input that is always 1. The adjoint lambda of W is such
// a combination as well: X_q^T delta_q - X_s^T C', with C' starting at zero and growing by delta-dot.
#pragma once

#include "generic/layers/linear.h"
#include "plain/copies.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// Z_0 = [X, 1] [W_0, b_0]^T for both sets, and -(lr_w X X_s^T + lr_b).
template <class T>
void gram_prepare(const Call<T>& call, T* space, Index task, const Index* present) {
  const Layer& layer = call.network.layers[0];
  const LayerPlace<T>& p = call.shape.places[0];
  const Index width = p.input_width, rows[2] = {present[0], present[1]};
  const T* data[2] = {call.gram_data + task * (call.shape.support + call.shape.query) * width, nullptr};
  data[1] = data[0] + call.shape.support * width;
  const T has_bias = layer.bias >= 0 ? T(1) : T(0);
  for (int set = 0; set < 2; ++set) {
    const Index first = set * call.shape.support;
    const DotTerm<T> initial{data[set], width, call.gram_weights, width, width};
    const Output<T> z{space + call.space.gram_initial + first * p.packed_width, p.packed_width};
    matmul_dot(rows[set], layer.out, &initial, 1, z);
    const DotTerm<T> product{data[set], width, data[0], width, width};
    T* products = space + call.space.gram_products + first * call.space.gram_stride;
    matmul_dot(rows[set], rows[0], &product, 1, Output<T>{products, call.space.gram_stride});
    for (Index r = 0; r < rows[set]; ++r)
      for (Index c = 0; c < rows[0]; ++c) {
        T& value = products[r * call.space.gram_stride + c];
        value = -(call.gram_lr[0] * (value - has_bias) + call.gram_lr[1] * has_bias);
      }
  }
}

template <class T>
GramRows<T> gram_rows(const Call<T>& call, const T* space, int set, Index supports) {
  const Index first = set * call.shape.support, width = call.shape.places[0].packed_width;
  return {space + call.space.gram_initial + first * width,
          space + call.space.gram_products + first * call.space.gram_stride, space + call.space.gram_tangent,
          call.space.gram_stride, supports};
}

// After the query pass: keeps delta_q, and lr (X_s X_q^T + 1) delta_q, the query's part of every tangent.
template <class T>
void gram_query(const Call<T>& call, T* space, const Sweep<T>& query, Index supports, T* rows) {
  const LayerPlace<T>& p = call.shape.places[0];
  gram_gradient<T>(query, query.output_delta(0), nullptr, rows);
  const T* products = space + call.space.gram_products + call.shape.support * call.space.gram_stride;
  const Term<T> term{products, 1, call.space.gram_stride, rows, p.packed_width, query.n};
  T* tangent = space + call.space.gram_tangent;
  matmul(supports, p.packed_width, term, Output<T>{tangent, p.packed_width});
  for (Index i = 0; i < supports * p.packed_width; ++i) tangent[i] = -tangent[i];
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
