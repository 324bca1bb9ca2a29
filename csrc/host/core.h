// The four verbs on a whole meta-batch: memory, threads, and the sum over tasks.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "plain/copies.h"

namespace fastmaml {

// What a network is to the core, and what a call needs beside its samples.
struct Model {
  std::vector<Layer> layers;
  Loss loss = Loss::mse;
  Index num_parameters = 0;
  std::vector<Index> counts;  // elements of each parameter, in the order of the flat vector
};

template <class T>
struct Request {
  Samples<T> support, query;
  Index tasks = 0, steps = 0;
  int threads = 1;
  bool second_order = true;
  const T* parameters = nullptr;  // [P], or [tasks, P] where not shared
  bool shared = true;
  const T* inner_lr = nullptr;                       // [P]
  bool uniform_inner_lr = false;                     // one value per parameter tensor: the Gram form may be used
  const T* vectors = nullptr;                        // [tasks, P], for hvp
  const T* task_scales = nullptr;                    // [tasks], of their gradients in the mean; null: all are 1
  const std::function<void()>* meanwhile = nullptr;  // what the calling thread does while the others begin, or null
};

// Outputs are written by the caller's pointers; null where not wanted.
template <class T>
struct MetaGradientOutputs {
  T* query_losses;       // [tasks]
  T* gradient;           // [P], of the mean query loss
  T* inner_lr_gradient;  // [P] or null
  T* query_outputs;      // [tasks, M, outputs] or null
};

// What a caller keeps from one meta-gradient for the next one of the same model: memory, and all that was worked out
// before. Null at first; to be dropped after a result that is not finite, and used by one call at a time.
using Kept = std::shared_ptr<void>;

template <class T>
Status meta_gradient(const Model&, const Request<T>&, const MetaGradientOutputs<T>&, Kept* kept = nullptr);
template <class T>
Status adapt(const Model&, const Request<T>&, T* fast, T* support_losses);
template <class T>
Status predict(const Model&, const Request<T>&, T* outputs);
template <class T>
Status hvp(const Model&, const Request<T>&, T* products);

// How a meta-gradient is made: each task by itself, with its own copies of the parameters; a group of tasks side by
// side, one in each SIMD lane (generic/forms/lanes/loop.h); or without copies of weights, through products among
// samples (generic/forms/products/loop.h). Automatic: by shapes. Tests and benchmarks ask for one, which is taken
// wherever it can be.
enum class Form : int { automatic, copies, lanes, products };
void set_form(Form);

// Tests fill scratch memory with NaN before every call, so that nothing unwritten is ever read.
void set_poison(bool on);

}  // namespace fastmaml
