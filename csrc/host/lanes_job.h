// A meta-gradient whose SIMD lanes are tasks: when it pays, and all its memory.
#pragma once

#include "host/copies_job.h"
#include "plain/lanes.h"

namespace fastmaml {
namespace {

constexpr Index kLaneWidth = 32;  // of the widest layer: wider ones fill lanes with their own numbers well enough
constexpr std::size_t kLaneStatesBytes = std::size_t{2} << 20;  // at most, of all threads' states of past steps

inline Index parameters_of(const Layer& layer) {
  if (layer.kind != Kind::linear) return 0;
  return layer.in * layer.out + (layer.bias >= 0 ? layer.out : 0);
}

template <class T>
bool can_take_lanes(const Model& model, const Request<T>& request) {
  Index parameters = 0;
  for (const Layer& layer : model.layers) {
    if (!treats_rows_alike(layer)) return false;
    parameters += parameters_of(layer);
  }
  const bool loss = model.loss == Loss::mse || model.loss == Loss::cross_entropy;
  return loss && request.steps >= 1 && parameters == model.num_parameters;
}

// Lanes without a task must be few, and groups enough for the processor. It depends on the shapes and on the machine
// alone, not on the number of threads asked for: that must not change a bit of the result.
template <class T>
bool lanes_pay(const Model& model, const Request<T>& request) {
  const Index lanes = kernels<T>().lanes, groups = (request.tasks + lanes - 1) / lanes;
  const auto narrow = [](const Layer& layer) { return layer.in <= kLaneWidth && layer.out <= kLaneWidth; };
  const bool fits = std::all_of(model.layers.begin(), model.layers.end(), narrow);
  return fits && groups >= processors() && 10 * request.tasks >= 7 * groups * lanes;
}

// Lives on the stack of a verb.
template <class T>
class LaneJob {
 public:
  LaneJob(const Model& model, const Request<T>& request)
      : meanwhile_(request.meanwhile),
        places_(model.layers.size()),
        lanes_(kernels<T>().lanes),
        groups_((request.tasks + lanes_ - 1) / lanes_),
        threads_(static_cast<int>(std::min<Index>(request.threads, groups_))) {
    call_.network = network_of(model);
    call_.places = places_.data();
    call_.tasks = request.tasks;
    call_.steps = request.steps;
    call_.sets[0] = request.support;
    call_.sets[1] = request.query;
    call_.second_order = request.second_order;
    call_.task_scales = request.task_scales;
    call_.parameters = request.parameters;
    take_inner_lr(request.inner_lr);
    place_state();
    place_workspace();
    allocate();
  }

  LaneCall<T>& call() { return call_; }

  Status run() {
    const Kernels<T>& table = kernels<T>();
    std::vector<char> prepared(static_cast<std::size_t>(threads_));
    return run_all(
        prepared, groups_, meanwhile_, [&](int thread) { table.lane_prepare(call_, workspace(thread)); },
        [&](int thread, Index group) { return table.lane_meta_gradient(call_, workspace(thread), group); });
  }

  // Groups are added in their order, whichever thread made them.
  void write_mean(T* gradient) const {
    const Index size = call_.network.num_parameters;
    const T share = T(1) / static_cast<T>(call_.tasks);
    for (Index i = 0; i < size; ++i) gradient[i] = call_.sums[i];
    for (Index g = 1; g < groups_; ++g)
      for (Index i = 0; i < size; ++i) gradient[i] += call_.sums[g * size + i];
    for (Index i = 0; i < size; ++i) gradient[i] *= share;
  }

 private:
  T* workspace(int thread) const { return workspaces_ + thread * call_.space.size * lanes_; }

  void take_inner_lr(const T* lr) {
    if (all_equal(lr, call_.network.num_parameters)) call_.one_inner_lr = *lr;
    else call_.inner_lr = lr;
  }

  void place_state() {
    const Index rows = std::max(call_.sets[0].n, call_.sets[1].n), outputs = elements(rows, call_.network.outputs);
    Index& state = call_.state;
    for (Index l = 1; l < call_.network.depth; ++l) {
      LanePlace& place = places_[static_cast<std::size_t>(l)];
      place.input = take(state, elements(rows, call_.network.layers[l].in));
      place.delta = take(state, elements(rows, call_.network.layers[l].in));
    }
    call_.output = take(state, outputs);
    call_.output_delta = take(state, outputs);
    call_.probabilities = take(state, call_.network.loss == Loss::mse ? 0 : outputs);
  }

  void place_workspace() {
    LaneSpace& space = call_.space;
    const Index size = call_.network.num_parameters;
    const std::size_t bytes = bytes_of<T>(elements(call_.state, lanes_, threads_));
    const Index most = std::max<Index>(1, static_cast<Index>(kLaneStatesBytes / bytes));
    space.slots = call_.second_order ? std::min(call_.steps, most) : 1;
    space.thetas = take(space.size, elements(call_.steps + 1, size));
    space.direction = take(space.size, call_.inner_lr ? size : 0);
    space.states = take(space.size, elements(space.slots, call_.state));
    space.other_state = take(space.size, call_.state);
    for (int set = 0; set < 2; ++set) {
      space.data[set] = take(space.size, elements(call_.sets[set].n, call_.network.inputs));
      space.targets[set] = take(space.size, elements(call_.sets[set].n, call_.network.outputs));
      space.weights[set] = take(space.size, call_.sets[set].n);
    }
  }

  void allocate() {
    const Index sums = aligned<T>(elements(groups_, call_.network.num_parameters));
    const std::size_t bytes = bytes_of<T>(sums + elements(threads_, call_.space.size, lanes_));
    scratch_ = std::make_unique<Scratch>(bytes);
    if (poison) std::memset(scratch_->data(), 0xff, bytes);
    call_.sums = static_cast<T*>(scratch_->data());
    workspaces_ = call_.sums + sums;
  }

  static Index take(Index& size, Index count) {
    const Index at = size;
    size += count;
    return at;
  }

  const std::function<void()>* meanwhile_;
  std::vector<LanePlace> places_;
  Index lanes_, groups_;
  int threads_;
  LaneCall<T> call_;
  std::unique_ptr<Scratch> scratch_;
  T* workspaces_ = nullptr;
};

}  // namespace
}  // namespace fastmaml
