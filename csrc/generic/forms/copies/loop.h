// One task from first to last: K inner steps, the query pass, and the reverse sweep (MAML paper, algorithm 1).
#pragma once

#include "generic/forms/copies/gram.h"
#include "generic/layers/sample_order.h"
#include "generic/passes/network.h"
#include "machine/interrupt.h"
#include "plain/pack.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct Task {
  const Call<T>& call;
  T* space;
  Index index;
  Index present[2] = {0, 0};  // samples of non-zero weight
  const T* theta_0 = nullptr;
  const T* theta_0_transposed = nullptr;
  GramRows<T> gram[2] = {};
  Status status = {};

  T* data(int set) const {
    if (!call.shape.gram) return space + call.space.data[set];
    const Index rows = call.shape.support + call.shape.query, width = call.shape.places[0].input_width;
    return call.gram_data + (index * rows + set * call.shape.support) * width;
  }
  double* patches(int set) const {
    return call.shape.patches ? reinterpret_cast<double*>(space + call.space.patches[set]) : nullptr;
  }
  Targets<T> targets(int set) const {
    return {space + call.space.values[set], reinterpret_cast<const std::int64_t*>(space + call.space.labels[set]),
            space + call.space.weights[set]};
  }
  T* theta(Index k) const { return space + call.space.thetas + (k - 1) * call.shape.packed; }  // k >= 1
  const T* at_step(Index k) const { return k == 0 ? theta_0 : theta(k); }
  T* slot(Index k) const { return space + call.space.states + (call.space.slots > 1 ? k : 0) * call.shape.state; }
  // again: the weights of step k have been transposed before
  const T* transposed(Index k, bool again) const {
    if (k == 0) return theta_0_transposed;
    const bool kept = call.space.transposes > 1;
    T* to = space + call.space.transposed + (kept ? (k - 1) * call.shape.transposed : 0);
    if (!again || !kept) transpose_parameters(call.network, call.shape, theta(k), to);
    return to;
  }
  Sweep<T> sweep(int set, Index k, T* state, bool again = false) const {
    return {call.network, call.shape, present[set], at_step(k),  transposed(k, again),
            state,        data(set),  &gram[set],   patches(set)};
  }
  Sweep<T> tangent(const T* direction, const T* direction_transposed) const {
    return {call.network, call.shape, present[0], direction, direction_transposed, space + call.space.tangent_state,
            nullptr};
  }
};

template <class T>
bool copy_target(Task<T>& task, int set, Index sample, Index row) {
  const Samples<T>& samples = task.call.sets[set];
  const Index outputs = task.call.network.outputs, at = task.index * samples.n + sample;
  if (!samples.labels) {
    const Index width = target_width(task.call.network.loss, outputs);
    if (samples.values)
      copy(samples.values + at * width, width, task.space + task.call.space.values[set] + row * width);
    return true;
  }
  const std::int64_t label = samples.labels[at];
  reinterpret_cast<std::int64_t*>(task.space + task.call.space.labels[set])[row] = label;
  if (label >= 0 && label < outputs) return true;
  task.status = {Problem::label_out_of_range, set == 1, task.index, sample, label};
  return false;
}

// What a stem needs to know of the data.
template <class T>
void take_patches(const Task<T>& task, int set) {
  const Layer& conv = task.call.network.layers[0];
  const Image& image = task.call.shape.places[0].input_image;
  centre_images(conv, image, task.present[set], task.data(set));
  const Map<T> x{task.data(set) + image.origin, image.sample, image.row, image.pixel};
  find_patches(conv, x, task.present[set], task.patches(set));
}

// The order that a task's samples are taken in; null: as they come.
template <class T>
const Index* sample_order(const Task<T>& task, int set) {
  const Call<T>& call = task.call;
  const Index n = call.sets[set].n;
  if (call.order) return call.order + task.index * n;
  if (!call.shape.ordered) return nullptr;
  return reinterpret_cast<const Index*>(task.space + call.space.order[set]);
}

// Before the samples are gathered, where they have an order of this call's own.
template <class T>
void take_order(const Task<T>& task, int set) {
  const Call<T>& call = task.call;
  const Index n = call.sets[set].n;
  if (!call.shape.ordered) return;
  order_samples(call.sets[set].x + task.index * n, n, reinterpret_cast<Index*>(task.space + call.space.order[set]));
}

// Copies the samples of non-zero weight into padded rows; weights are normalised to sum to 1.
template <class T>
bool gather(Task<T>& task, int set) {
  const Timed timed("gather", kNoLayer, task.call.sets[set].n);
  const Call<T>& call = task.call;
  const Samples<T>& samples = call.sets[set];
  const Index inputs = call.network.inputs, width = call.shape.data;
  const bool ones = call.network.layers[0].kind == Kind::linear && call.network.layers[0].bias >= 0;
  T* weights = task.space + call.space.weights[set];
  T total = 0;
  Index row = 0;
  take_order(task, set);
  const Index* order = sample_order(task, set);
  for (Index i = 0; i < samples.n; ++i) {
    const Index r = order ? order[i] : i;
    const T weight = samples.weights ? samples.weights[task.index * samples.n + r] : T(1);
    if (weight == T(0)) continue;
    T* to = task.data(set) + row * width;
    const T* from = samples.x + (task.index * samples.n + r) * inputs;
    if (call.shape.images) {
      copy_image(call.network.layers[0], call.shape.places[0].input_image, from, to);
    } else {
      copy(from, inputs, to);
      zero(to + inputs, width - inputs);
    }
    if (ones) to[inputs] = T(1);
    if (!copy_target(task, set, r, row)) return false;
    weights[row++] = weight;
    total += weight;
  }
  if (row == 0) {
    task.status = {Problem::no_weight, set == 1, task.index, 0, 0};
    return false;
  }
  for (Index r = 0; r < row; ++r) weights[r] /= total;
  if (call.shape.gram) zero(task.data(set) + row * width, (samples.n - row) * width);
  task.present[set] = row;
  if (call.shape.patches) take_patches(task, set);
  return true;
}

// Parameters of this task: the packed ones that all share, or its own.
template <class T>
void take_parameters(Task<T>& task) {
  const Call<T>& call = task.call;
  if (call.shared) {
    task.theta_0 = call.theta;
    task.theta_0_transposed = call.theta_transposed;
    return;
  }
  T* packed = call.theta + task.index * call.shape.packed;
  pack(call.network, call.shape, call.parameters + task.index * call.network.num_parameters, packed);
  task.theta_0 = packed;
  T* transposed = call.theta_transposed + task.index * call.shape.transposed;
  transpose_parameters(call.network, call.shape, packed, transposed);
  task.theta_0_transposed = transposed;
}

// theta_{k+1} = theta_k - lr * gradient of the support loss, for k = 0 ... K-1
template <class T>
void inner_steps(const Task<T>& task, T* losses) {
  const Call<T>& call = task.call;
  for (Index k = 0; k < call.shape.steps; ++k) {
    check_interruption();
    const Sweep<T> s = task.sweep(0, k, task.slot(k));
    forward(s);
    const T loss = loss_and_adjoint(s, task.targets(0));
    if (losses) losses[k] = loss;
    const Destination<T> to{task.theta(k + 1), task.at_step(k), call.inner_lr, call.one_inner_lr};
    backward(s, &to);
  }
}

template <class T>
void write_outputs(const Task<T>& task, int set, const T* state, T* outputs) {
  if (!outputs) return;
  const Index width = task.call.network.outputs, n = task.call.sets[set].n;
  T* to = outputs + task.index * n * width;
  const T* from = state + task.call.shape.output;
  const T* weights = task.call.sets[set].weights;
  const Index* order = sample_order(task, set);
  for (Index i = 0, row = 0; i < n; ++i) {
    const Index r = order ? order[i] : i;
    const bool present = !weights || weights[task.index * n + r] != T(0);
    if (present) copy(from + row++ * task.call.shape.output_width, width, to + r * width);
    else zero(to + r * width, width);
  }
}

// lambda_K: the query loss's gradient at the fast parameters
template <class T>
void query_pass(const Task<T>& task, T* lambda) {
  const Call<T>& call = task.call;
  T* state = task.space + call.space.query_state;
  const Sweep<T> q = task.sweep(1, call.shape.steps, state);
  forward(q);
  call.query_losses[task.index] = loss_and_adjoint(q, task.targets(1));
  if (call.task_scales) scale(q.outputs_delta(), q.n * call.shape.output_width, call.task_scales[task.index]);
  write_outputs(task, 1, state, call.outputs);
  const Destination<T> to{lambda};
  if (!call.shape.gram) return backward(q, &to);
  backward<T>(q, nullptr);
  for (Index l = 1; l < q.depth(); ++l) {
    if (q.layer(l).kind == Kind::linear) linear_gradient(q, l, to);
    if (q.layer(l).kind == Kind::batch_norm) batch_norm_gradient(q, l, to);
    if (q.layer(l).kind == Kind::append) append_gradient(q, q, l, to);
  }
  const LayerPlace<T>& p = call.shape.places[0];
  const Index rows = call.shape.support + call.shape.query;
  T* adjoints = call.gram_adjoints + task.index * rows * p.packed_width;
  zero(adjoints, rows * p.packed_width);
  gram_query(call, task.space, q, task.present[0], adjoints + call.shape.support * p.packed_width);
  zero(lambda + p.weight, p.packed_rows * p.packed_width);
}

// Whether H (lr lambda) is taken as lr (H lambda), so that lambda itself is the direction, updated layer by layer once
// nothing more is to be read of it.
template <class T>
bool takes_lambda(const Call<T>& call) {
  if (call.inner_lr || call.shape.gram || call.shape.images) return false;
  for (Index l = 0; l < call.network.depth; ++l)
    if (call.network.layers[l].kind == Kind::batch_norm || call.network.layers[l].kind == Kind::append) return false;
  return true;
}

// direction = lr * lambda; a Gram layer's coefficients have their lr in the products already
template <class T>
void scale_direction(const Call<T>& call, const T* lambda, T* direction) {
  const Timed timed("scale", kNoLayer, 0);
  const Index first =
      call.shape.gram ? aligned<T>(call.shape.places[0].packed_rows * call.shape.places[0].packed_width) : 0;
  copy(lambda, first, direction);
  for (Index i = first; i < call.shape.packed; ++i)
    direction[i] = (call.inner_lr ? call.inner_lr[i] : call.one_inner_lr) * lambda[i];
}

// lambda_k = lambda_{k+1} - H_k (lr * lambda_{k+1}), for k = K-1 ... 0
template <class T>
void reverse_sweep(const Task<T>& task, T* lambda) {
  const Call<T>& call = task.call;
  T* direction = task.space + call.space.direction;
  T* direction_transposed = task.space + call.space.direction_transposed;
  for (Index k = call.shape.steps - 1; k >= 0; --k) {
    check_interruption();
    const Sweep<T> s = task.sweep(0, k, task.slot(k), true);
    if (call.space.slots == 1 && k < call.shape.steps - 1) {  // the state was overwritten by a later step
      forward(s);
      loss_and_adjoint(s, task.targets(0));
      backward<T>(s, nullptr);
    }
    if (call.inner_lr_adjoints) {  // d/d lr = -gradient_k * lambda_{k+1}
      T* lr = call.inner_lr_adjoints + task.index * call.shape.packed;
      gradients(s, Destination<T>{lr, lr, lambda});
    }
    if (!call.second_order) continue;  // H_k is taken as zero
    const bool itself = takes_lambda(call);
    if (!itself) scale_direction(call, lambda, direction);
    const T* along = itself ? lambda : direction;
    transpose_parameters(call.network, call.shape, along, direction_transposed);
    const Sweep<T> d = task.tangent(along, direction_transposed);
    hessian_vector_product(s, d, task.targets(0), {lambda, lambda, nullptr, itself ? call.one_inner_lr : T(1)});
  }
}

template <class T>
void finish_gram(const Task<T>& task, const T* lambda) {
  const Call<T>& call = task.call;
  const LayerPlace<T>& p = call.shape.places[0];
  T* rows = call.gram_adjoints + task.index * (call.shape.support + call.shape.query) * p.packed_width;
  for (Index i = 0; i < task.present[0] * p.packed_width; ++i) rows[i] = -lambda[p.weight + i];
}

template <class T>
Status meta_gradient(const Call<T>& call, T* space, Index index) {
  Task<T> task{call, space, index};
  if (!gather(task, 0) || !gather(task, 1)) return task.status;
  take_parameters(task);
  if (call.shape.gram) {
    gram_prepare(call, space, index, task.present);
    for (int set = 0; set < 2; ++set) task.gram[set] = gram_rows(call, space, set, task.present[0]);
  }
  T* lambda = call.adjoints + index * call.shape.packed;
  if (call.inner_lr_adjoints) zero(call.inner_lr_adjoints + index * call.shape.packed, call.shape.packed);
  inner_steps<T>(task, nullptr);
  query_pass(task, lambda);
  if (call.second_order || call.inner_lr_adjoints) reverse_sweep(task, lambda);
  if (call.shape.gram) finish_gram(task, lambda);
  return task.status;
}

template <class T>
Status adapt(const Call<T>& call, T* space, Index index) {
  Task<T> task{call, space, index};
  if (!gather(task, 0)) return task.status;
  take_parameters(task);
  inner_steps(task, call.support_losses + index * call.shape.steps);
  unpack(call.network, call.shape, task.at_step(call.shape.steps), T(1),
         call.fast + index * call.network.num_parameters);
  return task.status;
}

template <class T>
Status predict(const Call<T>& call, T* space, Index index) {
  Task<T> task{call, space, index};
  if (!gather(task, 0)) return task.status;
  take_parameters(task);
  forward(task.sweep(0, 0, task.slot(0)));
  write_outputs(task, 0, task.slot(0), call.outputs);
  return task.status;
}

template <class T>
void write_product(const Call<T>& call, Index index) {
  unpack(call.network, call.shape, call.adjoints + index * call.shape.packed, T(1),
         call.products + index * call.network.num_parameters);
}

template <class T>
Status hvp(const Call<T>& call, T* space, Index index) {
  Task<T> task{call, space, index};
  if (!gather(task, 0)) return task.status;
  take_parameters(task);
  T* direction = space + call.space.direction;
  T* transposed = space + call.space.direction_transposed;
  pack(call.network, call.shape, call.vectors + index * call.network.num_parameters, direction);
  transpose_parameters(call.network, call.shape, direction, transposed);
  const Sweep<T> s = task.sweep(0, 0, task.slot(0));
  forward(s);
  loss_and_adjoint(s, task.targets(0));
  backward<T>(s, nullptr);
  T* product = call.adjoints + index * call.shape.packed;
  hessian_vector_product(s, task.tangent(direction, transposed), task.targets(0), Destination<T>{product});
  write_product(call, index);
  return task.status;
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
