// A group of tasks from first to last, side by side: K inner steps, the query pass, and the reverse sweep.
#pragma once

#include "generic/forms/lanes/passes.h"
#include "machine/interrupt.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct LaneGroup {
  const LaneCall<T>& call;
  T* space;
  Index first, count;  // tasks; the lanes beyond them repeat the last one

  T* at(Index number) const { return space + number * kLanes<T>; }
  Index task(Index lane) const { return first + (lane < count ? lane : count - 1); }
  T* theta(Index k) const { return at(call.space.thetas + k * call.network.num_parameters); }
  T* slot(Index k) const { return at(call.space.states + k % call.space.slots * call.state); }
  LaneTargets<T> targets(int set) const { return {at(call.space.targets[set]), at(call.space.weights[set])}; }
  LaneSweep<T> sweep(int set, Index k, T* state) const {
    return {call, call.sets[set].n, theta(k), state, at(call.space.data[set])};
  }
};

template <class T>
bool gather_target(const LaneGroup<T>& group, int set, Index lane, Index row, Status& status) {
  const Samples<T>& samples = group.call.sets[set];
  const Index outputs = group.call.network.outputs, task = group.task(lane), at = task * samples.n + row;
  T* to = group.at(group.call.space.targets[set] + row * outputs) + lane;
  if (!samples.labels) {
    for (Index o = 0; o < outputs; ++o) to[o * kLanes<T>] = samples.values[at * outputs + o];
    return true;
  }
  const std::int64_t label = samples.labels[at];
  for (Index o = 0; o < outputs; ++o) to[o * kLanes<T>] = o == label ? T(1) : T(0);
  if (label >= 0 && label < outputs) return true;
  status = {Problem::label_out_of_range, set == 1, task, row, label};
  return false;
}

// A sample of no weight is left out, whatever it holds.
template <class T>
bool gather_sample(const LaneGroup<T>& group, int set, Index lane, Index row, T weight, Status& status) {
  const Index inputs = group.call.network.inputs, outputs = group.call.network.outputs;
  T* to = group.at(group.call.space.data[set] + row * inputs) + lane;
  if (weight != T(0)) {
    const T* from = group.call.sets[set].x + (group.task(lane) * group.call.sets[set].n + row) * inputs;
    for (Index i = 0; i < inputs; ++i) to[i * kLanes<T>] = from[i];
    return gather_target(group, set, lane, row, status);
  }
  T* targets = group.at(group.call.space.targets[set] + row * outputs) + lane;
  for (Index i = 0; i < inputs; ++i) to[i * kLanes<T>] = T(0);
  for (Index o = 0; o < outputs; ++o) targets[o * kLanes<T>] = T(0);
  return true;
}

// The samples of one task into its lane; weights are normalised to sum to 1.
template <class T>
bool gather_lane(const LaneGroup<T>& group, int set, Index lane, Status& status) {
  const Samples<T>& samples = group.call.sets[set];
  const T* given = samples.weights ? samples.weights + group.task(lane) * samples.n : nullptr;
  T* weights = group.at(group.call.space.weights[set]) + lane;
  T total = 0;
  for (Index r = 0; r < samples.n; ++r) total += given ? given[r] : T(1);
  if (total == T(0)) {
    status = {Problem::no_weight, set == 1, group.task(lane), 0, 0};
    return false;
  }
  for (Index r = 0; r < samples.n; ++r) {
    const T weight = given ? given[r] : T(1);
    weights[r * kLanes<T>] = weight / total;
    if (!gather_sample(group, set, lane, r, weight, status)) return false;
  }
  return true;
}

template <class T>
Status gather(const LaneGroup<T>& group) {
  const Timed timed("gather", kNoLayer, group.call.sets[0].n);
  Status status;
  for (Index lane = 0; lane < kLanes<T>; ++lane)
    for (int set = 0; set < 2; ++set)
      if (!gather_lane(group, set, lane, status)) return status;
  return status;
}

// theta_{k+1} = theta_k - lr * gradient of the support loss, for k = 0 ... K-1
template <class T>
void inner_steps(const LaneGroup<T>& group) {
  const LaneCall<T>& call = group.call;
  for (Index k = 0; k < call.steps; ++k) {
    check_interruption();
    const LaneSweep<T> s = group.sweep(0, k, group.slot(k));
    lane_forward(s);
    lane_loss(s, group.targets(0));
    const Destination<T> to{group.theta(k + 1), group.theta(k), call.inner_lr, call.one_inner_lr};
    lane_backward(s, &to);
  }
}

template <class T>
void write_outputs(const LaneGroup<T>& group, const T* from) {
  const LaneCall<T>& call = group.call;
  if (!call.outputs) return;
  const Index outputs = call.network.outputs, n = call.sets[1].n;
  const T* weights = call.sets[1].weights;
  for (Index lane = 0; lane < group.count; ++lane) {
    const Index task = group.first + lane;
    for (Index i = 0; i < n * outputs; ++i) {
      const bool present = !weights || weights[task * n + i / outputs] != T(0);
      call.outputs[task * n * outputs + i] = present ? from[i * kLanes<T> + lane] : T(0);
    }
  }
}

// The outputs' adjoints, each task's times its scale.
template <class T>
void scale_tasks(const LaneGroup<T>& group, T* delta) {
  const LaneCall<T>& call = group.call;
  Wide<T> scales;
  for (int lane = 0; lane < kLanes<T>; ++lane) scales[lane] = call.task_scales[group.task(lane)];
  for (Index i = 0; i < call.sets[1].n * call.network.outputs; ++i) put_lanes(delta, i, lanes_at(delta, i) * scales);
}

// lambda_K, the query loss's gradient at the fast parameters, takes their place.
template <class T>
void query_pass(const LaneGroup<T>& group, T* lambda) {
  const LaneCall<T>& call = group.call;
  const LaneSweep<T> q = group.sweep(1, call.steps, group.at(call.space.other_state));
  lane_forward(q);
  const Wide<T> losses = lane_loss(q, group.targets(1));
  if (call.task_scales) scale_tasks(group, q.in_state(call.output_delta));
  for (Index lane = 0; lane < group.count; ++lane) call.query_losses[group.first + lane] = losses[lane];
  write_outputs(group, q.in_state(call.output));
  const Destination<T> to{lambda};
  lane_backward(q, &to);
}

// lr * lambda, where the step sizes differ
template <class T>
void scale_direction(const LaneCall<T>& call, const T* lambda, T* direction) {
  for (Index i = 0; i < call.network.num_parameters; ++i)
    put_lanes(direction, i, splat<Wide<T>>(call.inner_lr[i]) * lanes_at(lambda, i));
}

// lambda_k = lambda_{k+1} - H_k (lr * lambda_{k+1}), for k = K-1 ... 0; with one step size, - lr H_k lambda_{k+1}
template <class T>
void reverse_sweep(const LaneGroup<T>& group, T* lambda) {
  const LaneCall<T>& call = group.call;
  T* direction = call.inner_lr ? group.at(call.space.direction) : lambda;
  for (Index k = call.steps - 1; k >= 0; --k) {
    check_interruption();
    const LaneSweep<T> s = group.sweep(0, k, group.slot(k));
    if (k < call.steps - call.space.slots) {  // the state was overwritten by a later step
      lane_forward(s);
      lane_loss(s, group.targets(0));
      lane_backward<T>(s, nullptr);
    }
    if (call.inner_lr) scale_direction(call, lambda, direction);
    const LaneSweep<T> d{call, s.n, direction, group.at(call.space.other_state), nullptr};
    const Destination<T> to{lambda, lambda, nullptr, call.inner_lr ? T(1) : call.one_inner_lr};
    lane_hessian_vector_product(s, d, group.targets(0), to);
  }
}

// The sum over the group's tasks of each parameter's number.
template <class T>
void sum_lanes(const LaneGroup<T>& group, const T* lambda, T* sums) {
  const Timed timed("reduce", kNoLayer, 0);
  Wide<T> counted;
  for (int lane = 0; lane < kLanes<T>; ++lane) counted[lane] = lane < group.count ? T(1) : T(0);
  for (Index i = 0; i < group.call.network.num_parameters; ++i)
    sums[i] = horizontal_sum<T>(lanes_at(lambda, i) * counted);
}

// Once per workspace and call: theta_0 in every lane.
template <class T>
void lane_prepare(const LaneCall<T>& call, T* space) {
  const Timed timed("prepare", kNoLayer, 0);
  T* theta = space + call.space.thetas * kLanes<T>;
  for (Index i = 0; i < call.network.num_parameters; ++i) put_lanes(theta, i, splat<Wide<T>>(call.parameters[i]));
}

template <class T>
Status lane_meta_gradient(const LaneCall<T>& call, T* space, Index index) {
  const Index first = index * kLanes<T>, left = call.tasks - first;
  const LaneGroup<T> group{call, space, first, left < kLanes<T> ? left : kLanes<T>};
  const Status status = gather(group);
  if (status.problem != Problem::none) return status;
  T* lambda = group.theta(call.steps);
  inner_steps(group);
  query_pass(group, lambda);
  if (call.second_order) reverse_sweep(group, lambda);
  sum_lanes(group, lambda, call.sums + index * call.network.num_parameters);
  return status;
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
