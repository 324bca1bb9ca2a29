// Weighted mean losses: value and output adjoints, and the adjoints' tangents.
#pragma once

#include "generic/layers/sweep.h"
#include "machine/profile.h"

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
  const T* values;             // [n, target_width]
  const std::int64_t* labels;  // [n] (cross-entropy)
  const T* weights;            // [n]
};

// sum over n of w_n mean over outputs of (z - y)^2
template <class T>
T mse(const Sweep<T>& s, const Targets<T>& targets) {
  const Index outputs = s.network.outputs, width = s.shape.output_width;
  const T* z = s.outputs();
  T* delta = s.outputs_delta();
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
    const T* z = s.outputs() + r * width;
    T* delta = s.outputs_delta() + r * width;
    T* probability = s.probabilities() + r * width;
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

// sum over n of w_n scale E[-log N(a; mean, exp(log_std)^2)] over a of mean `centre` and variance `spread`.
// Outputs are (mean, log_std), targets (centre, spread, scale). Per dimension, q is the expected squared z-score.
// Keeps w scale / exp(log_std)^2 for the tangent.
template <class T>
T gaussian(const Sweep<T>& s, const Targets<T>& targets) {
  const Index half = s.network.outputs / 2, width = s.shape.output_width;
  const T constant = T(0.91893853320467274178);  // log(2 pi) / 2
  T loss = 0;
  for (Index r = 0; r < s.n; ++r) {
    const T* z = s.outputs() + r * width;
    const T* target = targets.values + r * (2 * half + 1);
    T* delta = s.outputs_delta() + r * width;
    T* kept = s.probabilities() + r * width;
    const T weight = targets.weights[r] * target[2 * half];
    T row = 0;
    for (Index c = 0; c < half; ++c) {
      const T precision = exponential(T(-2) * z[half + c]), error = z[c] - target[c];
      const T q = precision * (target[half + c] + error * error);
      row += constant + z[half + c] + T(0.5) * q;
      kept[c] = weight * precision;
      delta[c] = weight * precision * error;
      delta[half + c] = weight * (T(1) - q);
    }
    loss += weight * row;
  }
  return loss;
}

// w scale (mu' / s^2 - 2 (mu - m) l' / s^2) and w scale 2 (q l' - (mu - m) mu' / s^2)
template <class T>
void gaussian_tangent(const Sweep<T>& s, const Sweep<T>& d, const Targets<T>& targets) {
  const Index half = s.network.outputs / 2, width = s.shape.output_width;
  for (Index r = 0; r < s.n; ++r) {
    const T* z = s.outputs() + r * width;
    const T* z_dot = d.outputs() + r * width;
    const T* target = targets.values + r * (2 * half + 1);
    T* delta_dot = d.outputs_delta() + r * width;
    const T* precision = s.probabilities() + r * width;
    for (Index c = 0; c < half; ++c) {
      const T error = z[c] - target[c], slope = precision[c] * error;
      const T q = precision[c] * (target[half + c] + error * error);
      delta_dot[c] = precision[c] * z_dot[c] - T(2) * slope * z_dot[half + c];
      delta_dot[half + c] = T(2) * (q * z_dot[half + c] - slope * z_dot[c]);
    }
  }
}

// sum over n of w_n sum over outputs of -t log softmax(z), targets t of any sign; keeps the probabilities
template <class T>
T categorical(const Sweep<T>& s, const Targets<T>& targets) {
  const Index outputs = s.network.outputs, width = s.shape.output_width;
  T loss = 0;
  for (Index r = 0; r < s.n; ++r) {
    const T* z = s.outputs() + r * width;
    const T* target = targets.values + r * outputs;
    T* delta = s.outputs_delta() + r * width;
    T* probability = s.probabilities() + r * width;
    T most = z[0], total = 0, scale = 0, dot = 0;
    for (Index c = 1; c < outputs; ++c) most = z[c] > most ? z[c] : most;
    for (Index c = 0; c < outputs; ++c) {
      total += probability[c] = exponential(z[c] - most);
      scale += target[c];
      dot += target[c] * (z[c] - most);
    }
    const T weight = targets.weights[r];
    for (Index c = 0; c < outputs; ++c) delta[c] = weight * (scale * (probability[c] /= total) - target[c]);
    loss += weight * (scale * logarithm(total) - dot);
  }
  return loss;
}

// The sum of a sample's targets, by which the softmax's Hessian is scaled; 1 for a label.
template <class T>
T target_sum(const Sweep<T>& s, const Targets<T>& targets, Index row) {
  if (s.network.loss == Loss::cross_entropy) return T(1);
  T sum = 0;
  for (Index c = 0; c < s.network.outputs; ++c) sum += targets.values[row * s.network.outputs + c];
  return sum;
}

// A ReLU as the very last layer gates what the loss sends back.
template <class T>
void gate_output(const Sweep<T>& s, T* values) {
  if (!s.layer(s.depth() - 1).relu) return;
  const T* z = s.outputs();
  for (Index i = 0; i < s.n * s.shape.output_width; ++i) values[i] = z[i] > T(0) ? values[i] : T(0);
}

template <class T>
T loss_and_adjoint(const Sweep<T>& s, const Targets<T>& targets) {
  const Timed timed("loss", kNoLayer, s.n);
  T loss = 0;
  switch (s.network.loss) {
    case Loss::mse:
      loss = mse(s, targets);
      break;
    case Loss::cross_entropy:
      loss = cross_entropy(s, targets);
      break;
    case Loss::gaussian:
      loss = gaussian(s, targets);
      break;
    case Loss::categorical:
      loss = categorical(s, targets);
  }
  gate_output(s, s.outputs_delta());
  return loss;
}

// The loss's Hessian in the outputs, times the output tangents: w (p z' - p (p . z')), or 2 w z' / outputs.
template <class T>
void loss_tangent(const Sweep<T>& s, const Sweep<T>& d, const Targets<T>& targets) {
  const Timed timed("loss tangent", kNoLayer, s.n);
  const Index outputs = s.network.outputs, width = s.shape.output_width;
  if (s.network.loss == Loss::gaussian) {
    gaussian_tangent(s, d, targets);
    return gate_output(s, d.outputs_delta());
  }
  for (Index r = 0; r < s.n; ++r) {
    const T* z_dot = d.outputs() + r * width;
    const T* probability = s.probabilities() + r * width;
    T* delta_dot = d.outputs_delta() + r * width;
    const T weight = targets.weights[r];
    if (s.network.loss == Loss::mse) {
      for (Index c = 0; c < outputs; ++c) delta_dot[c] = T(2) * weight / static_cast<T>(outputs) * z_dot[c];
      continue;
    }
    T mean = 0;
    const T scale = weight * target_sum(s, targets, r);
    for (Index c = 0; c < outputs; ++c) mean += probability[c] * z_dot[c];
    for (Index c = 0; c < outputs; ++c) delta_dot[c] = scale * probability[c] * (z_dot[c] - mean);
  }
  gate_output(s, d.outputs_delta());
}

}  // namespace
}  // namespace fastmaml::FASTMAML_ISA
