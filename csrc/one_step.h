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

#include "one_step_call.h"
#include "passes.h"
#include "row_products.h"
#include "sample_order.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct TaskBlock {
  const OneStepCall<T>& step;
  const Call<T>& call;
  T* space;
  Index first, count;  // tasks

  Index samples(int set) const { return call.sets[set].n; }
  Targets<T> targets(int set, Index task) const {
    const Index row = task * samples(set), width = target_width(call.network.loss, call.network.outputs);
    return {space + call.space.values[set] + row * width,
            reinterpret_cast<const std::int64_t*>(space + call.space.labels[set]) + row,
            space + call.space.weights[set] + row};
  }
  // All samples of the block.
  Sweep<T> sweep(int set, Index state) const {
    return {call.network,          call.shape,    count * samples(set),        call.theta,
            call.theta_transposed, space + state, space + call.space.data[set]};
  }
  Sweep<T> support() const { return sweep(0, call.space.states); }
  Sweep<T> query() const { return sweep(1, call.space.query_state); }
  Sweep<T> tangents() const { return sweep(0, call.space.tangent_state); }
  // Packed parameters of one task, of the layers that have their own.
  T* fast(Index task) const { return space + step.fast + task * call.shape.packed; }
  T* fast_transposed(Index task) const { return space + step.fast_transposed + task * call.shape.transposed; }
  T* direction(Index task) const { return space + step.direction + task * call.shape.packed; }
  T* direction_transposed(Index task) const { return space + step.direction_transposed + task * call.shape.transposed; }
  // The products of one task's query samples and its support samples.
  T* products(Index place, Index l, Index task) const {
    return space + place + (l * call.shape.query + task * samples(1)) * step.stride;
  }
};

template <class T>
Sweep<T> part(Sweep<T> s, Index task, Index samples) {
  s.first = task * samples;
  s.n = samples;
  return s;
}

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
  if (x && outputs) terms[count++] = {x, p.input_width, 1, weight, p.packed_width, layer.in, s.open(l)};
  if (!tangent && outputs) start_from_bias(layer, p, weight, out);
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

// One task's rows of the block, from row `first` on, and where its samples are.
template <class T>
struct TaskRows {
  const TaskBlock<T>& block;
  int set;
  Index task, first;
  const Index* order;  // the sample that each row is made of; null: as they come
  Index source(Index i) const { return (block.first + task) * block.samples(set) + (order ? order[i] : i); }
};

template <class T>
TaskRows<T> task_rows(const TaskBlock<T>& block, int set, Index task) {
  const Index n = block.samples(set);
  if (!block.call.shape.ordered) return {block, set, task, task * n, nullptr};
  auto* order = reinterpret_cast<Index*>(block.space + block.call.space.order[set]) + task * n;
  order_samples(block.call.sets[set].x + (block.first + task) * n, n, order);
  return {block, set, task, task * n, order};
}

template <class T>
bool gather_labels(const TaskRows<T>& rows, Status& status) {
  const TaskBlock<T>& block = rows.block;
  const Samples<T>& samples = block.call.sets[rows.set];
  auto* labels = reinterpret_cast<std::int64_t*>(block.space + block.call.space.labels[rows.set]) + rows.first;
  for (Index i = 0; i < samples.n; ++i) {
    const Index from = rows.source(i);
    const std::int64_t label = labels[i] = samples.labels[from];
    if (label >= 0 && label < block.call.network.outputs) continue;
    status = {Problem::label_out_of_range, rows.set == 1, from / samples.n, from % samples.n, label};
    return false;
  }
  return true;
}

template <class T>
bool gather_targets(const TaskRows<T>& rows, Status& status) {
  const Call<T>& call = rows.block.call;
  const Samples<T>& samples = call.sets[rows.set];
  if (samples.labels) return gather_labels(rows, status);
  const Index width = target_width(call.network.loss, call.network.outputs);
  T* values = rows.block.space + call.space.values[rows.set] + rows.first * width;
  for (Index i = 0; i < samples.n; ++i) copy(samples.values + rows.source(i) * width, width, values + i * width);
  return true;
}

// The samples of all tasks of the block as padded rows; the padding and the weights stand (one_step_prepare).
template <class T>
bool gather_block(const TaskBlock<T>& block, int set, Status& status) {
  const Timed timed("gather", kNoLayer, block.call.sets[set].n);
  const Call<T>& call = block.call;
  const Samples<T>& samples = call.sets[set];
  const Index inputs = call.network.inputs, width = call.shape.data;
  for (Index task = 0; task < block.count; ++task) {
    const TaskRows<T> rows = task_rows(block, set, task);
    T* to = block.space + call.space.data[set] + rows.first * width;
    for (Index i = 0; i < samples.n; ++i) copy(samples.x + rows.source(i) * inputs, inputs, to + i * width);
    if (!gather_targets(rows, status)) return false;
  }
  return true;
}

template <class T>
void write_outputs(const TaskBlock<T>& block, const Sweep<T>& q) {
  if (!block.call.outputs) return;
  const Index width = block.call.network.outputs, stride = block.call.shape.output_width;
  for (Index task = 0; task < block.count; ++task) {
    const TaskRows<T> rows = task_rows(block, 1, task);
    for (Index i = 0; i < block.samples(1); ++i)
      copy(q.outputs() + (rows.first + i) * stride, width, block.call.outputs + rows.source(i) * width);
  }
}

// Whole vectors from column `first` on, or a little before it, where nothing has been written yet.
template <class T>
void clear_columns(T* rows, Index count, Index first, Index width) {
  for (Index r = 0; r < count; ++r)
    for (Index c = first / kLanes<T> * kLanes<T>; c < width; c += kLanes<T>) store(rows + r * width + c, Wide<T>{});
}

// The columns beyond each row's numbers: zero, but for the ones that multiply a bias, and every pass keeps them so.
template <class T>
void prepare_padding(const Sweep<T>& s, Index rows, bool tangent) {
  for (Index l = 1; l <= s.depth(); ++l) {
    const Index used = l < s.depth() ? s.layer(l).in : s.network.outputs;
    const Index width = l < s.depth() ? s.place(l).input_width : s.shape.output_width;
    clear_columns(s.output(l - 1), rows, used, width);
    clear_columns(s.output_delta(l - 1), rows, used, width);
  }
  if (!tangent) prepare_ones(s.network, s.shape, s.state);
}

// What lies between a row's numbers and its end: a step writes whole vectors.
template <class T>
void prepare_fast(const TaskBlock<T>& block, Index l) {
  if (block.call.network.layers[l].kind != Kind::linear || block.step.by_products[l]) return;
  const LayerPlace<T>& p = block.call.shape.places[l];
  for (Index task = 0; task < block.step.most; ++task)
    zero(block.fast(task) + p.weight, p.packed_rows * p.packed_width);
}

// Of the data as of every layer's input; and each sample weighs 1/n.
template <class T>
void prepare_samples(const TaskBlock<T>& block, int set) {
  const Call<T>& call = block.call;
  const Index inputs = call.network.inputs, width = call.shape.data;
  const bool ones = call.network.layers[0].kind == Kind::linear && call.network.layers[0].bias >= 0;
  const Index used = set == 0 ? call.shape.support : call.shape.query;
  const T share = T(1) / static_cast<T>(call.sets[set].n);
  clear_columns(block.space + call.space.data[set], used, inputs, width);
  for (Index r = 0; r < used; ++r) {
    if (ones) block.space[call.space.data[set] + r * width + inputs] = T(1);
    block.space[call.space.weights[set] + r] = share;
  }
}

template <class T>
void one_step_prepare(const OneStepCall<T>& step, T* space) {
  const Timed timed("prepare", kNoLayer, 0);
  const TaskBlock<T> block{step, step.call, space, 0, 0};
  const Index rows = step.call.shape.rows;
  prepare_padding(block.support(), rows, false);
  prepare_padding(block.query(), rows, false);
  for (int set = 0; set < 2; ++set) prepare_samples(block, set);
  if (step.call.second_order) prepare_padding(block.tangents(), rows, true);
  for (Index l = 0; l < step.call.network.depth; ++l) prepare_fast(block, l);
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
