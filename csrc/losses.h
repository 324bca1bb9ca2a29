// Weighted mean losses: value and output adjoints, and the adjoints' tangents.
#pragma once

#include "profile.h"
#include "sweep.h"

namespace fastmaml::FASTMAML_ISA {
namespace {

template <class T>
T exponential(T value) {
  if constexpr (sizeof(T) == 4) return __builtin_expf(value);
  else return __builtin_exp(value);
}

template <class T>
T logarithm(T value) {
  if constexpr (sizeof(T) == 4) return __builtin_logf(value);
  else return __builtin_log(value);
}

// What a task's samples should come out as. weights sum to 1.
template <class T>
struct Targets {
  const T* values;             // [n, outputs] (mse)
  const std::int64_t* labels;  // [n] (cross-entropy)
  const T* weights;            // [n]
};

// sum over n of w_n mean over outputs of (z - y)^2
template <class T>
T mse(const Sweep<T>& s, const Targets<T>& targets) {
  const Index outputs = s.network.outputs, width = s.shape.output_width;
  const T* z = s.state + s.shape.output;
  T* delta = s.state + s.shape.output_delta;
  T loss = 0;
  for (Index r = 0; r < s.n; ++r) {
    const T weight = targets.weights[r] / static_cast<T>(outputs);
    T row = 0;
    for (Index c = 0; c < outputs; ++c) {
      const T error = z[r * width + c] - targets.values[r * outputs + c];
      row += error * error;
      delta[r * width + c] = T(2) * weight * error;
    }
    loss += weight * row;
  }
  return loss;
}

// sum over n of w_n (logsumexp(z) - z_label); keeps the probabilities for the tangent
template <class T>
T cross_entropy(const Sweep<T>& s, const Targets<T>& targets) {
  const Index outputs = s.network.outputs, width = s.shape.output_width;
  T loss = 0;
  for (Index r = 0; r < s.n; ++r) {
    const T* z = s.state + s.shape.output + r * width;
    T* delta = s.state + s.shape.output_delta + r * width;
    T* probability = s.state + s.shape.probabilities + r * width;
    T most = z[0], total = 0;
    for (Index c = 1; c < outputs; ++c) most = z[c] > most ? z[c] : most;
    for (Index c = 0; c < outputs; ++c) total += probability[c] = exponential(z[c] - most);
    const T weight = targets.weights[r], scale = T(1) / total;
    for (Index c = 0; c < outputs; ++c) delta[c] = weight * (probability[c] *= scale);
    const Index label = static_cast<Index>(targets.labels[r]);
    delta[label] -= weight;
    loss += weight * (logarithm(total) + most - z[label]);
  }
  return loss;
}

// A ReLU as the very last layer gates what the loss sends back.
template <class T>
void gate_output(const Sweep<T>& s, T* values) {
  if (!s.layer(s.depth() - 1).relu) return;
  const T* z = s.state + s.shape.output;
  for (Index i = 0; i < s.n * s.shape.output_width; ++i) values[i] = z[i] > T(0) ? values[i] : T(0);
}

template <class T>
T loss_and_adjoint(const Sweep<T>& s, const Targets<T>& targets) {
  const Timed timed("loss", kNoLayer, s.n);
  const T loss = s.network.loss == Loss::mse ? mse(s, targets) : cross_entropy(s, targets);
  gate_output(s, s.state + s.shape.output_delta);
  return loss;
}

// The loss's Hessian in the outputs, times the output tangents: w (p z' - p (p . z')), or 2 w z' / outputs.
template <class T>
void loss_tangent(const Sweep<T>& s, const Sweep<T>& d, const Targets<T>& targets) {
  const Timed timed("loss tangent", kNoLayer, s.n);
  const Index outputs = s.network.outputs, width = s.shape.output_width;
  for (Index r = 0; r < s.n; ++r) {
    const T* z_dot = d.state + s.shape.output + r * width;
    const T* probability = s.state + s.shape.probabilities + r * width;
    T* delta_dot = d.state + s.shape.output_delta + r * width;
    const T weight = targets.weights[r];
    if (s.network.loss == Loss::mse) {
      for (Index c = 0; c < outputs; ++c) delta_dot[c] = T(2) * weight / static_cast<T>(outputs) * z_dot[c];
      continue;
    }
    T mean = 0;
    for (Index c = 0; c < outputs; ++c) mean += probability[c] * z_dot[c];
    for (Index c = 0; c < outputs; ++c) delta_dot[c] = weight * probability[c] * (z_dot[c] - mean);
  }
  gate_output(s, d.state + s.shape.output_delta);
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
