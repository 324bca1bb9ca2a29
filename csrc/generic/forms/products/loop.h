// One inner step without a copy of any weight.
//
// The step adds a combination of the support samples to each weight:  W_1 = W_0 - lr D_s^T X_s,  with a layer's inputs
// X [samples, in] and its outputs' adjoints D [samples, out], and the adjoint of W_1 is  D_q^T X_q. Whatever is
// multiplied by either is multiplied by W_0 and by products among samples instead, of which there are few:
//   X_q W_1^T = X_q W_0^T + P D_s,  P = -(lr_w X_q X_s^T + lr_b)      D_q W_1 = D_q W_0 + R X_s,  R = -lr_w D_q D_s^T
// Tangents are taken in the direction -lr lambda, so that all signs are plus:
//   X_s' W_0^T + P^T D_q      D_s' W_0 + R^T X_q      lambda_0 = D_q^T X_q + D_s'^T X_s + D_s^T X_s'
// and the last line is one product over all samples of a block of tasks.
// A layer of few inputs or outputs has fewer weights than there are products: each task has them, and their direction,
// for itself.
#pragma once

#include "generic/forms/products/samples.h"
#include "generic/passes/network.h"
#include "generic/tiles/row_products.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// A product that is in place gets a second one added before it is finished.
template <class T>
Output<T> on_top(Output<T> out, Finish finish) {
  out.finish = finish;
  out.base = out.c;
  out.base_row = out.c_row;
  return out;
}

// x W_0^T + the combination, and b_0 unless x is a tangent; x may be null
template <class T>
void combined_forward(const Sweep<T>& s, Index l, const T* x, bool tangent, const Term<T>& combination, Output<T> out) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const T* weight = s.theta + p.weight;
  const bool outputs = layer.layout == Layout::outputs_in_lanes;
  Term<T> terms[2];
  int count = 0;
  if (x && outputs) terms[count++] = tangent ? tangent_term(s, l, x, weight) : forward_term(s, l, x, weight, out);
  if (x && !outputs) {
    const Finish finish = out.finish;
    const DotTerm<T> term{x, p.input_width, weight, p.packed_width, p.packed_width};
    out.finish = Finish::store;
    matmul_dot(s.n, layer.out, &term, 1, out);
    out = on_top(out, finish);
  }
  terms[count++] = combination;
  matmul(s.n, whole_vectors<T>(layer.out), terms, count, out);
}

// adjoint W_0 + the combination, gated by the ReLU before
template <class T>
void combined_backward(const Sweep<T>& s, Index l, const T* adjoint, const Term<T>& combination, T* to) {
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const bool copied = p.has_transposed;
  Output<T> out = backward_output(s, to, l);
  Term<T> terms[2];
  int count = 0;
  if (layer.layout == Layout::outputs_in_lanes && !copied) {
    const Finish finish = out.finish;
    const DotTerm<T> term{adjoint, p.output_width, s.theta + p.weight, p.packed_width, p.packed_width};
    out.finish = Finish::store;
    matmul_dot(s.n, layer.in, &term, 1, out);
    out = on_top(out, finish);
  } else {
    terms[count++] = {adjoint,
                      p.output_width,
                      1,
                      copied ? s.transposed + p.transposed : s.theta + p.weight,
                      copied ? padded<T>(layer.in) : p.packed_width,
                      layer.out,
                      s.open(l + 1)};
  }
  terms[count++] = combination;
  matmul(s.n, whole_vectors<T>(layer.in), terms, count, out);
  // The bias's column of W_0 and of X lands in the padding; it must stay zero.
  for (Index r = 0; layer.in % kLanes<T> && r < s.n; ++r) to[r * p.input_width + layer.in] = T(0);
}

// P of a layer
template <class T>
void multiply_inputs(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, Index l, T* products) {
  const Timed timed("input products", l, q.n);
  const Layer& layer = s.layer(l);
  const Index width = s.place(l).input_width, depth = whole_vectors<T>(layer.in);
  const bool ones = layer.bias >= 0 && layer.in < depth;  // the column of ones has put a 1 into each
  const T weight = block.step.inner_lr[layer.weight];
  const T shift = (ones ? weight : T(0)) - (layer.bias >= 0 ? block.step.inner_lr[layer.bias] : T(0));
  row_products<T>(q.n, s.n,
                  {q.input(l), width, s.input(l), width, depth, -weight, shift, products, block.step.stride, q.open(l),
                   s.open(l), ones});
}

// R of a layer
template <class T>
void multiply_adjoints(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, Index l, T* products) {
  const Timed timed("adjoint products", l, q.n);
  const Index width = s.place(l).output_width, depth = whole_vectors<T>(s.layer(l).out);
  const T scale = -block.step.inner_lr[s.layer(l).weight];
  row_products<T>(q.n, s.n,
                  {q.output_delta(l), width, s.output_delta(l), width, depth, scale, T(0), products, block.step.stride,
                   q.open(l + 1), s.open(l + 1)});
}

// ---- layers with weights of their own ----

template <class T>
Sweep<T> with_fast(const TaskBlock<T>& block, Sweep<T> s, Index task) {
  s.theta = block.fast(task);
  s.transposed = block.fast_transposed(task);
  return s;
}

template <class T>
Sweep<T> with_direction(const TaskBlock<T>& block, Sweep<T> d, Index task) {
  d.theta = block.direction(task);
  d.transposed = block.direction_transposed(task);
  return d;
}

// W_1 = W_0 - lr D_s^T X_s
template <class T>
void take_step(const TaskBlock<T>& block, const Sweep<T>& s, Index l, Index task) {
  const Timed timed("gradient", l, s.n);
  const Call<T>& call = block.call;
  T* fast = block.fast(task);
  linear_gradient(s, l, {fast, call.theta, call.inner_lr, call.one_inner_lr});
  transpose_layer(s.layer(l), s.place(l), fast, block.fast_transposed(task));
}

// -lr lambda, lambda = D_q^T X_q
template <class T>
void take_direction(const TaskBlock<T>& block, const Sweep<T>& q, Index l, Index task) {
  const Timed timed("gradient", l, q.n);
  const Call<T>& call = block.call;
  const LayerPlace<T>& p = q.place(l);
  T* direction = block.direction(task);
  linear_gradient(q, l, {direction});
  for (Index i = p.weight; i < p.weight + p.packed_rows * p.packed_width; ++i)
    direction[i] *= call.inner_lr ? -call.inner_lr[i] : -call.one_inner_lr;
  transpose_layer(q.layer(l), p, direction, block.direction_transposed(task));
}

// ---- one task's query samples at its fast parameters ----

template <class T>
void query_layer_forward(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, Index l, Index task) {
  if (q.layer(l).kind != Kind::linear) return layer_forward(q, l);
  if (!block.step.by_products[l]) {
    take_step(block, s, l, task);
    return layer_forward(with_fast(block, q, task), l);
  }
  T* products = block.products(block.step.input_products, l, task);
  multiply_inputs(block, s, q, l, products);
  const Timed timed("forward", l, q.n);
  combined_forward(q, l, q.input(l), false,
                   {products, block.step.stride, 1, s.output_delta(l), s.place(l).output_width, s.n},
                   forward_output(q, l));
  write_ones(q, l + 1, false);
  note_open(q, l + 1);
}

template <class T>
void query_layer_backward(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, Index l, Index task) {
  if (q.layer(l).kind != Kind::linear) return layer_backward(q, l);
  if (!block.step.by_products[l]) return layer_backward(with_fast(block, q, task), l);
  T* products = block.products(block.step.adjoint_products, l, task);
  multiply_adjoints(block, s, q, l, products);
  const Timed timed("backward", l, q.n);
  combined_backward(q, l, q.output_delta(l), {products, block.step.stride, 1, s.input(l), s.place(l).input_width, s.n},
                    q.delta(l));
}

// One task's part of both sets.
template <class T>
struct TaskSets {
  Sweep<T> support, query;
  TaskSets(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, Index task)
      : support(part(s, task, block.samples(0))), query(part(q, task, block.samples(1))) {}
};

// Layer by layer, each of all tasks: a kernel's code stays in its cache for all of them.
template <class T>
void query_pass(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q) {
  for (Index l = 0; l < q.depth(); ++l)
    for (Index task = 0; task < block.count; ++task) {
      const TaskSets<T> sets(block, s, q, task);
      query_layer_forward(block, sets.support, sets.query, l, task);
    }
  for (Index task = 0; task < block.count; ++task)
    block.call.query_losses[block.first + task] =
        loss_and_adjoint(part(q, task, block.samples(1)), block.targets(1, task));
  for (Index l = q.depth() - 1; l > 0; --l)
    for (Index task = 0; task < block.count; ++task) {
      const TaskSets<T> sets(block, s, q, task);
      query_layer_backward(block, sets.support, sets.query, l, task);
    }
}

// ---- one task's tangents, in the direction -lr lambda ----

template <class T>
void direction_layer_forward(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, const Sweep<T>& d,
                             Index l, Index task) {
  if (s.layer(l).kind != Kind::linear) return layer_tangent_forward(s, d, l);
  if (!block.step.by_products[l]) {
    take_direction(block, q, l, task);
    return layer_tangent_forward(s, with_direction(block, d, task), l);
  }
  const Timed timed("tangent forward", l, s.n);
  const T* products = block.products(block.step.input_products, l, task);
  const T* x = l == 0 ? nullptr : d.input(l);  // the data's tangent is zero
  combined_forward(s, l, x, true, {products, 1, block.step.stride, q.output_delta(l), q.place(l).output_width, q.n},
                   tangent_output(s, d, l));
}

template <class T>
void direction_layer_backward(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, const Sweep<T>& d,
                              Index l, Index task) {
  if (s.layer(l).kind != Kind::linear) return layer_tangent_backward(s, d, l);
  if (!block.step.by_products[l]) return layer_tangent_backward(s, with_direction(block, d, task), l);
  const Timed timed("tangent backward", l, s.n);
  const T* products = block.products(block.step.adjoint_products, l, task);
  combined_backward(s, l, d.output_delta(l), {products, 1, block.step.stride, q.input(l), q.place(l).input_width, q.n},
                    d.delta(l));
}

template <class T>
void tangent_pass(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, const Sweep<T>& d) {
  for (Index l = 0; l < s.depth(); ++l)
    for (Index task = 0; task < block.count; ++task) {
      const TaskSets<T> sets(block, s, q, task);
      direction_layer_forward(block, sets.support, sets.query, part(d, task, block.samples(0)), l, task);
    }
  loss_tangent(s, d, block.targets(0, 0));
  for (Index l = s.depth() - 1; l > 0; --l)
    for (Index task = 0; task < block.count; ++task) {
      const TaskSets<T> sets(block, s, q, task);
      direction_layer_backward(block, sets.support, sets.query, part(d, task, block.samples(0)), l, task);
    }
}

// ---- the block ----

// lambda_0 of a layer, summed over the block
template <class T>
void block_gradient(const TaskBlock<T>& block, const Sweep<T>& s, const Sweep<T>& q, const Sweep<T>& d, Index l,
                    T* lambda) {
  const Timed timed("gradient", l, q.n);
  const Layer& layer = s.layer(l);
  const LayerPlace<T>& p = s.place(l);
  const bool outputs = layer.layout == Layout::outputs_in_lanes;
  Term<T> terms[3];
  int count = 0;
  terms[count++] = gradient_term(q, l, q.input(l), q.output_delta(l));
  if (block.call.second_order) {
    terms[count++] = gradient_term(s, l, s.input(l), d.output_delta(l));
    if (l > 0) terms[count++] = gradient_term(s, l, d.input(l), s.output_delta(l));
  }
  const Index columns = whole_vectors<T>(outputs ? layer.out : layer.in + 1);
  matmul(p.packed_rows, columns, terms, count, Output<T>{lambda + p.weight, p.packed_width});
}

template <class T>
Status one_step(const OneStepCall<T>& step, T* space, Index index) {
  const Call<T>& call = step.call;
  const TaskBlock<T> block{step, call, space, step.first[index], step.first[index + 1] - step.first[index]};
  Status status;
  for (int set = 0; set < 2; ++set)
    if (!gather_block(block, set, status)) return status;
  const Sweep<T> s = block.support(), q = block.query(), d = block.tangents();
  forward(s);
  loss_and_adjoint(s, block.targets(0, 0));
  backward<T>(s, nullptr);
  query_pass(block, s, q);
  write_outputs(block, q);
  if (call.second_order) tangent_pass(block, s, q, d);
  T* lambda = call.adjoints + index * call.shape.packed;
  for (Index l = 0; l < s.depth(); ++l)
    if (s.layer(l).kind == Kind::linear) block_gradient(block, s, q, d, l, lambda);
  return status;
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
