// One call with all its memory: what the verbs of core.cpp and the kept samples of linearised.cpp run on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "host/core.h"
#include "host/flat_parameters.h"
#include "host/shape.h"
#include "machine/dispatch.h"
#include "machine/parallel.h"
#include "machine/scratch.h"
#include "machine/size.h"
#include "plain/pack.h"

namespace fastmaml {

extern std::atomic<bool> poison;
Index processors();

namespace {

template <class T>
const Kernels<T>& kernels() {
  if constexpr (sizeof(T) == 4) return *current_isa().single;
  else return *current_isa().twofold;
}

enum class Verb { meta_gradient, adapt, predict, hvp, linearise };

// Hands out places one after the other, each aligned.
template <class T>
struct Places {
  Index size = 0;
  Index take(Index count) {
    const Index at = size;
    size += aligned<T>(count);
    return at;
  }
};

// Linearised samples lie in pieces of shape.support rows, whose passes stay in the cache.
template <class T>
Index chunks_of(const Request<T>& request, const Shape<T>& shape) {
  return (request.support.n + shape.support - 1) / shape.support;
}

// Steps keep their activations only while all threads' together stay below one parameter copy per task and step.
template <class T>
Index state_slots(const Request<T>& request, const Shape<T>& shape, Verb verb) {
  if (verb == Verb::linearise) return chunks_of(request, shape);
  if (verb != Verb::meta_gradient || !request.second_order || shape.steps <= 1) return 1;
  const double states = static_cast<double>(request.threads) * static_cast<double>(shape.state + shape.packed);
  const double copies = static_cast<double>(request.tasks) * static_cast<double>(shape.packed);
  return states <= copies ? shape.steps : 1;
}

// Looks at all of them, which vectorises where stopping at the first would not.
template <class T>
bool all_equal(const T* values, Index count) {
  int others = 0;
  for (Index i = 0; i < count; ++i) others |= values[i] != *values;
  return others == 0;
}

template <class T>
void place_samples(Places<T>& places, const Network& network, const Shape<T>& shape, int set, Index rows,
                   Workspace<T>& space) {
  space.data[set] = places.take(shape.gram ? 0 : elements(rows, shape.data));
  space.patches[set] = places.take(shape.patches);
  space.weights[set] = places.take(rows);
  space.values[set] = places.take(elements(rows, target_width(network.loss, network.outputs)));
  space.labels[set] = places.take(elements(rows, sizeof(std::int64_t) / sizeof(T)));
  space.order[set] = places.take(shape.ordered ? elements(rows, sizeof(Index) / sizeof(T)) : 0);
}

template <class T>
Workspace<T> make_workspace(const Network& network, const Request<T>& request, const Shape<T>& shape, Verb verb) {
  Workspace<T> space;
  Places<T> places;
  const bool meta = verb == Verb::meta_gradient;
  const bool tangents = verb == Verb::hvp || (meta && request.second_order);
  const Index rows[2] = {verb == Verb::linearise ? request.support.n : shape.support, shape.query};
  space.thetas = places.take(elements(shape.steps, shape.packed));
  space.transposes = shape.images ? 1 : shape.steps;
  space.transposed = places.take(elements(space.transposes, shape.transposed));
  space.slots = state_slots(request, shape, verb);
  space.states = places.take(elements(space.slots, shape.state));
  space.query_state = meta ? places.take(shape.state) : -1;
  space.tangent_state = tangents ? places.take(shape.state) : -1;
  space.direction = tangents ? places.take(shape.packed) : -1;
  space.direction_transposed = tangents ? places.take(shape.transposed) : -1;
  for (int set = 0; set < 2; ++set) place_samples(places, network, shape, set, rows[set], space);
  if (shape.gram) {
    const Index outputs = shape.places[0].packed_width;
    space.gram_stride = padded<T>(shape.support);
    space.gram_products = places.take(elements(shape.support + shape.query, space.gram_stride));
    space.gram_initial = places.take(elements(shape.support + shape.query, outputs));
    space.gram_tangent = places.take(elements(shape.support, outputs));
  }
  space.size = places.size;
  return space;
}

// Rows of a piece of linearised samples: what the tangents of two layers of 100 leave room for in a cache of 512 KiB.
// Batch norm needs all samples at once.
inline Index chunk_rows(const std::vector<Layer>& layers, Index n) {
  constexpr Index kMost = 64;
  for (const Layer& layer : layers)
    if (layer.kind == Kind::batch_norm) return n;
  return n < kMost ? n : kMost;
}

// Runs kernel(thread, index) for every index in [0, count), after prepare(thread) on each thread that takes part and
// has not been prepared.
template <class Prepare, class Kernel>
Status run_all(std::vector<char>& prepared, Index count, const std::function<void()>* meanwhile, Prepare prepare,
               Kernel kernel) {
  const int threads = static_cast<int>(prepared.size());
  std::vector<Status> statuses(static_cast<std::size_t>(count));
  parallel_for(
      threads, count,
      [&](int thread, long index) {
        char& done = prepared[static_cast<std::size_t>(thread)];
        if (!done) prepare(thread);
        done = 1;
        statuses[static_cast<std::size_t>(index)] = kernel(thread, index);
      },
      meanwhile);
  for (const Status& status : statuses)
    if (status.problem != Problem::none) return status;
  return {};
}

// Whether a layer does the same to each row of features, whatever the others are.
inline bool treats_rows_alike(const Layer& layer) {
  const bool known = layer.kind == Kind::linear || layer.kind == Kind::relu || layer.kind == Kind::tanh;
  return known && !layer.image && layer.channels == 0;
}

inline Network network_of(const Model& model) {
  Network network;
  const Layer& first = model.layers.front();
  network.layers = model.layers.data();
  network.depth = static_cast<Index>(model.layers.size());
  network.loss = model.loss;
  network.num_parameters = model.num_parameters;
  network.inputs = first.in * first.in_size[0] * first.in_size[1];
  network.outputs = model.layers.back().out;
  return network;
}

// Whether samples are ordered and what they leave closed is skipped. Zero times infinity is not zero: parameters that
// are not finite must be seen, whatever the samples open.
template <class T>
bool can_skip(const Network& network, const Request<T>& request) {
  return request.shared && order_pays(network) && all_finite(request.parameters, network.num_parameters);
}

// lr [P] as the user gave it, or null.
template <class T>
void take_inner_lr(Call<T>& call, const T* lr) {
  const Index count = lr ? call.network.num_parameters : 0;
  if (count > 0 && all_equal(lr, count)) {
    call.one_inner_lr = *lr;
    call.inner_lr = nullptr;
  } else if (lr) {
    pack(call.network, call.shape, lr, call.inner_lr);
  }
}

// A call with all its memory. Lives on the stack of a verb, or as long as samples are kept linearised.
template <class T>
class Job {
 public:
  Job(const Model& model, const Request<T>& request, Verb verb, bool inner_lr_gradient)
      : request_(request), layers_(model.layers) {
    call_.network = network_of(model);
    call_.network.layers = layers_.data();  // with layouts of their own
    const Network& network = call_.network;
    const bool meta = verb == Verb::meta_gradient;
    const bool gram = meta && request.uniform_inner_lr && !inner_lr_gradient;
    const Index rows = verb == Verb::linearise ? chunk_rows(layers_, request.support.n) : request.support.n;
    call_.shape = make_shape<T>(network, layers_, places_, rows, meta ? request.query.n : 0, request.steps, gram,
                                meta && can_skip(network, request));
    call_.space = make_workspace(network, request, call_.shape, verb);
    call_.tasks = call_.parts = request.tasks;
    call_.sets[0] = request.support;
    call_.sets[1] = request.query;
    call_.second_order = request.second_order;
    call_.task_scales = request.task_scales;
    call_.parameters = request.parameters;
    call_.vectors = request.vectors;
    call_.shared = request.shared;
    allocate(verb, inner_lr_gradient);
    fill();
  }

  Call<T>& call() { return call_; }

  T* workspace(Index number) const { return workspaces_ + number * call_.space.size; }

  Status run(Status (*kernel)(const Call<T>&, T*, Index)) {
    std::vector<char> prepared(static_cast<std::size_t>(std::min<Index>(request_.threads, request_.tasks)));
    return run_all(
        prepared, request_.tasks, request_.meanwhile,
        [&](int thread) { kernels<T>().prepare(call_, workspace(thread)); },
        [&](int thread, Index task) { return kernel(call_, workspace(thread), task); });
  }

  void reduce() {
    const Index pieces = (call_.shape.packed + kReducePiece - 1) / kReducePiece;
    const Index grams = call_.shape.gram ? (layers_[0].out + kGramPiece - 1) / kGramPiece : 0;
    const bool small = call_.tasks * call_.shape.packed < 100000;  // cheaper than waking a thread
    parallel_for(small && !grams ? 1 : request_.threads, pieces + grams, [&](int, long job) {
      if (job < grams) kernels<T>().reduce_gram(call_, job);
      else kernels<T>().reduce(call_, job - grams);
    });
  }

  // The mean over tasks, back in the user's order.
  void write_mean(const T* total, T* user) {
    kernels<T>().unpack_mean(call_, total, user);
    if (!call_.shape.gram) return;
    const T scale = T(1) / static_cast<T>(call_.tasks);
    const Layer& layer = layers_[0];
    for (Index o = 0; o < layer.out; ++o) {
      const T* row = call_.gram_total + o * places_[0].input_width;
      for (Index i = 0; i < layer.in; ++i) user[layer.weight + o * layer.in + i] = scale * row[i];
      if (layer.bias >= 0) user[layer.bias + o] = scale * row[layer.in];
    }
  }

 private:
  void allocate(Verb verb, bool inner_lr_gradient) {
    Places<T> places;
    const Shape<T>& shape = call_.shape;
    const Index copies = request_.shared ? 1 : request_.tasks;
    const Index theta = places.take(elements(copies, shape.packed));
    const Index transposed = places.take(elements(copies, shape.transposed));
    const Index lr = places.take(shape.packed);
    const bool kept = verb == Verb::linearise;
    const bool adjoints = verb == Verb::meta_gradient || verb == Verb::hvp || kept;
    const Index lambda = places.take(adjoints ? elements(request_.tasks, shape.packed) : 0);
    const Index total = places.take(shape.packed);
    const Index lr_lambda = places.take(inner_lr_gradient ? elements(request_.tasks, shape.packed) : 0);
    const Index lr_total = places.take(inner_lr_gradient ? shape.packed : 0);
    const Index width = places_[0].input_width, rows = elements(request_.tasks, shape.support + shape.query);
    const Index outputs = places_[0].packed_width, out = layers_[0].out;
    const Index gram_weights = places.take(shape.gram ? elements(out, width) : 0);
    const Index gram_total = places.take(shape.gram ? elements(out, width) : 0);
    const Index gram_data = places.take(shape.gram ? elements(rows, width) : 0);
    const Index gram_adjoints = places.take(shape.gram ? elements(rows, outputs) : 0);
    const Index workspaces = places.take(
        elements(kept ? request_.tasks : std::min<Index>(request_.threads, request_.tasks), call_.space.size));
    const std::size_t bytes = bytes_of<T>(places.size);
    scratch_ = std::make_unique<Scratch>(bytes);
    T* base = static_cast<T*>(scratch_->data());
    if (poison) std::memset(base, 0xff, bytes);
    call_.theta = base + theta;
    call_.theta_transposed = base + transposed;
    call_.inner_lr = base + lr;
    call_.adjoints = base + lambda;
    call_.total = base + total;
    call_.inner_lr_adjoints = inner_lr_gradient ? base + lr_lambda : nullptr;
    call_.inner_lr_total = base + lr_total;
    call_.gram_weights = base + gram_weights;
    call_.gram_total = base + gram_total;
    call_.gram_data = base + gram_data;
    call_.gram_adjoints = base + gram_adjoints;
    workspaces_ = base + workspaces;
  }

  void fill() {
    if (request_.shared) kernels<T>().pack_shared(call_);
    take_inner_lr(call_, request_.inner_lr);
    if (call_.shape.gram) fill_gram();
  }

  void fill_gram() {
    const Layer& layer = layers_[0];
    const Index width = places_[0].input_width;
    for (Index o = 0; o < layer.out; ++o) {
      T* row = call_.gram_weights + o * width;
      std::memcpy(row, request_.parameters + layer.weight + o * layer.in,
                  static_cast<std::size_t>(layer.in) * sizeof(T));
      for (Index i = layer.in; i < width; ++i) row[i] = T(0);
      if (layer.bias >= 0) row[layer.in] = request_.parameters[layer.bias + o];
    }
    call_.gram_lr[0] = request_.inner_lr[layer.weight];
    call_.gram_lr[1] = layer.bias >= 0 ? request_.inner_lr[layer.bias] : T(0);
  }

  const Request<T> request_;
  std::vector<Layer> layers_;
  std::vector<LayerPlace<T>> places_;
  Call<T> call_;
  std::unique_ptr<Scratch> scratch_;
  T* workspaces_ = nullptr;
};

}  // namespace
}  // namespace fastmaml
