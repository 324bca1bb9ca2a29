// A block's samples and outputs on their way in and out, and all that stands in its memory from the start.
#pragma once

#include "generic/forms/products/block.h"
#include "generic/layers/sample_order.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

// One task's rows of the block, from row `first` on, and where its samples are.
template <class T>
struct TaskRows {
  const TaskBlock<T>& block;
  int set;
  Index task, first;
  const Index* order;  // the sample that each row is made of; null: as they come
  Index source(Index i) const { return (block.first + task) * block.samples(set) + (order ? order[i] : i); }
};

// Where samples are ordered, `order_task` has been before.
template <class T>
TaskRows<T> task_rows(const TaskBlock<T>& block, int set, Index task) {
  const Index first = task * block.samples(set);
  return {block, set, task, first, block.call.shape.ordered ? block.order(set) + first : nullptr};
}

template <class T>
void order_task(const TaskBlock<T>& block, int set, Index task) {
  if (!block.call.shape.ordered) return;
  const Index n = block.samples(set);
  order_samples(block.call.sets[set].x + (block.first + task) * n, n, block.order(set) + task * n);
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
    order_task(block, set, task);
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

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
