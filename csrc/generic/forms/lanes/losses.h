// Weighted mean losses of a group of tasks; generic/layers/losses.h has the same for one.
#pragma once

#include "generic/forms/lanes/sweep.h"
#include "generic/layers/losses.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
struct LaneTargets {
  const T* values;   // [n, outputs]; of labels, one where the label is and zero elsewhere
  const T* weights;  // [n], a task's summing to 1
};

// sum over n of w_n mean over outputs of (z - y)^2
template <class T>
Wide<T> lane_mse(const LaneSweep<T>& s, const LaneTargets<T>& targets) {
  const Index outputs = s.call.network.outputs;
  const T *z = s.in_state(s.call.output), share = T(1) / static_cast<T>(outputs);
  T* delta = s.in_state(s.call.output_delta);
  Wide<T> loss{};
  for (Index r = 0; r < s.n; ++r) {
    const Wide<T> weight = lanes_at(targets.weights, r) * splat<Wide<T>>(share);
    for (Index i = r * outputs; i < (r + 1) * outputs; ++i) {
      const Wide<T> error = lanes_at(z, i) - lanes_at(targets.values, i);
      loss += weight * error * error;
      put_lanes(delta, i, (weight + weight) * error);
    }
  }
  return loss;
}

// sum over n of w_n (logsumexp(z) - z_label); keeps the probabilities for the tangent
template <class T>
Wide<T> lane_cross_entropy(const LaneSweep<T>& s, const LaneTargets<T>& targets) {
  const Index outputs = s.call.network.outputs;
  const T* z = s.in_state(s.call.output);
  T* delta = s.in_state(s.call.output_delta);
  T* probabilities = s.in_state(s.call.probabilities);
  Wide<T> loss{};
  for (Index r = 0; r < s.n; ++r) {
    const Index first = r * outputs, last = first + outputs;
    Wide<T> most = lanes_at(z, first), total{}, chosen{};
    for (Index i = first + 1; i < last; ++i) most = lanes_at(z, i) > most ? lanes_at(z, i) : most;
    for (Index i = first; i < last; ++i) {
      const Wide<T> above = lanes_at(z, i) - most, power = each_lane<T>(above, exponential<T>);
      put_lanes(probabilities, i, power);
      total += power;
      chosen += lanes_at(targets.values, i) * above;
    }
    const Wide<T> weight = lanes_at(targets.weights, r);
    for (Index i = first; i < last; ++i) {
      const Wide<T> probability = lanes_at(probabilities, i) / total;
      put_lanes(probabilities, i, probability);
      put_lanes(delta, i, weight * (probability - lanes_at(targets.values, i)));
    }
    loss += weight * (each_lane<T>(total, logarithm<T>) - chosen);
  }
  return loss;
}

// A ReLU as the very last layer gates what the loss sends back.
template <class T>
void lane_gate_output(const LaneSweep<T>& s, T* values) {
  if (!s.layer(s.depth() - 1).relu) return;
  const T* z = s.in_state(s.call.output);
  for (Index i = 0; i < s.n * s.call.network.outputs; ++i)
    put_lanes(values, i, gate(lanes_at(values, i), lanes_at(z, i)));
}

template <class T>
Wide<T> lane_loss(const LaneSweep<T>& s, const LaneTargets<T>& targets) {
  const Timed timed("loss", kNoLayer, s.n);
  const Wide<T> loss = s.call.network.loss == Loss::mse ? lane_mse(s, targets) : lane_cross_entropy(s, targets);
  lane_gate_output(s, s.in_state(s.call.output_delta));
  return loss;
}

// The loss's Hessian in the outputs, times the output tangents: w (p z' - p (p . z')), or 2 w z' / outputs.
template <class T>
void lane_loss_tangent(const LaneSweep<T>& s, const LaneSweep<T>& d, const LaneTargets<T>& targets) {
  const Timed timed("loss tangent", kNoLayer, s.n);
  const Index outputs = s.call.network.outputs;
  const T* z_dot = d.in_state(s.call.output);
  T* delta_dot = d.in_state(s.call.output_delta);
  const T* probabilities = s.in_state(s.call.probabilities);
  for (Index r = 0; r < s.n; ++r) {
    const Index first = r * outputs, last = first + outputs;
    const Wide<T> weight = lanes_at(targets.weights, r);
    if (s.call.network.loss == Loss::mse) {
      const Wide<T> curvature = weight * splat<Wide<T>>(T(2) / static_cast<T>(outputs));
      for (Index i = first; i < last; ++i) put_lanes(delta_dot, i, curvature * lanes_at(z_dot, i));
      continue;
    }
    Wide<T> mean{};
    for (Index i = first; i < last; ++i) mean += lanes_at(probabilities, i) * lanes_at(z_dot, i);
    for (Index i = first; i < last; ++i)
      put_lanes(delta_dot, i, weight * lanes_at(probabilities, i) * (lanes_at(z_dot, i) - mean));
  }
  lane_gate_output(s, delta_dot);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
