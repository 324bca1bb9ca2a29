// A meta-gradient through one inner step without copies of weights: when it pays, and all its memory.
#pragma once

#include "host/copies_job.h"
#include "plain/products.h"

namespace fastmaml {
namespace {

constexpr Index kBlockRows = 32;  // samples that a block has at most, if a task has no more

// Whether products among a task's samples are fewer multiply-adds than weights of its own: the step, the direction,
// and what either of them multiplies beside W_0.
template <class T>
bool products_pay(const Layer& layer, bool first, const Request<T>& request) {
  if (layer.kind != Kind::linear) return false;
  const double n = static_cast<double>(request.support.n), m = static_cast<double>(request.query.n);
  const double in = static_cast<double>(layer.in), out = static_cast<double>(layer.out);
  const double own = in * out * (first ? 2 * n + m : 3 * n + m);
  return n * m * (first ? in + 2 * out : 3 * (in + out)) < own;
}

template <class T>
bool products_pay(const Model& model, const Request<T>& request) {
  for (const Layer& layer : model.layers)
    if (products_pay(layer, &layer == &model.layers.front(), request)) return true;
  return false;
}

template <class T>
bool can_take_products(const Model& model, const Request<T>& request) {
  return std::all_of(model.layers.begin(), model.layers.end(), treats_rows_alike) && request.steps == 1 &&
         request.uniform_inner_lr && !request.support.weights && !request.query.weights && !request.task_scales;
}

constexpr std::size_t kKeptBytes = std::size_t{16} << 20;  // that a job holds at most between two calls

// Serves one call, or one after the other.
template <class T>
class OneStepJob {
 public:
  // everywhere: also layers of few weights are taken by products, as a test wants them
  OneStepJob(const Model& model, const Request<T>& request, bool everywhere)
      : table_(&kernels<T>()), everywhere_(everywhere), asked_(request), layers_(model.layers) {
    Call<T>& call = step_.call;
    call.network = network_of(model);
    call.network.layers = layers_.data();  // with layouts of their own
    call.tasks = request.tasks;
    call.second_order = request.second_order;
    const Index samples = std::max(request.support.n, request.query.n);
    const Index most = std::clamp<Index>(kBlockRows / samples, 1, request.tasks);
    divide(request.tasks, most);
    step_.most = most;
    call.parts = static_cast<Index>(first_.size()) - 1;
    step_.first = first_.data();
    call.shape = make_shape<T>(call.network, layers_, places_, most * request.support.n, most * request.query.n, 1,
                               false, can_skip(call.network, request));
    prepared_.resize(static_cast<std::size_t>(std::min<Index>(request.threads, call.parts)));
    for (const Layer& layer : layers_)
      by_products_.push_back(everywhere || products_pay(layer, by_products_.empty(), request));
    step_.by_products = by_products_.data();
    place_workspace();
    allocate();
    take(request);
  }

  // Whether another request of the same model is one to `take`: of the same form, with nothing to be found out anew.
  bool takes(const Request<T>& request, bool everywhere) const {
    return table_ == &kernels<T>() && everywhere_ == everywhere && !poison && asked_.tasks == request.tasks &&
           asked_.support.n == request.support.n && asked_.query.n == request.query.n &&
           asked_.threads == request.threads && asked_.second_order == request.second_order &&
           step_.call.shape.ordered == can_skip(step_.call.network, request);
  }

  // Its samples, parameters and step sizes.
  void take(const Request<T>& request) {
    Call<T>& call = step_.call;
    asked_ = request;
    call.sets[0] = request.support;
    call.sets[1] = request.query;
    call.parameters = request.parameters;
    step_.inner_lr = request.inner_lr;
    call.inner_lr = inner_lr_;
    take_inner_lr(call, request.inner_lr);
    table_->pack_shared(call);
  }

  bool is_small() const { return bytes_ <= kKeptBytes; }

  Call<T>& call() { return step_.call; }

  Status run() {
    return run_all(
        prepared_, step_.call.parts, asked_.meanwhile,
        [&](int thread) { table_->one_step_prepare(step_, workspace(thread)); },
        [&](int thread, Index block) { return table_->one_step(step_, workspace(thread), block); });
  }

  // Blocks are added in their order, whichever thread made them.
  void write_mean(T* gradient) {
    Call<T>& call = step_.call;
    const Index pieces = (call.shape.packed + kReducePiece - 1) / kReducePiece;
    for (Index piece = 0; piece < pieces; ++piece) table_->reduce(call, piece);
    table_->unpack_mean(call, call.total, gradient);
  }

 private:
  T* workspace(int thread) const { return workspaces_ + thread * step_.call.space.size; }

  // Blocks of `most` tasks, and smaller ones towards the end, so that threads end together.
  void divide(Index tasks, Index most) {
    first_.push_back(0);
    while (first_.back() < tasks)
      first_.push_back(first_.back() + std::clamp<Index>((tasks - first_.back() + 3) / 4, 1, most));
  }

  void place_workspace() {
    Places<T> places;
    Workspace<T>& space = step_.call.space;
    const Shape<T>& shape = step_.call.shape;
    space.states = places.take(shape.state);
    space.query_state = places.take(shape.state);
    space.tangent_state = places.take(shape.state);
    place_samples(places, step_.call.network, shape, 0, shape.support, space);
    place_samples(places, step_.call.network, shape, 1, shape.query, space);
    step_.stride = padded<T>(asked_.support.n);
    step_.input_products = places.take(elements(step_.call.network.depth, shape.query, step_.stride));
    step_.adjoint_products = places.take(elements(step_.call.network.depth, shape.query, step_.stride));
    step_.fast = places.take(elements(step_.most, shape.packed));
    step_.direction = places.take(elements(step_.most, shape.packed));
    step_.fast_transposed = places.take(elements(step_.most, shape.transposed));
    step_.direction_transposed = places.take(elements(step_.most, shape.transposed));
    space.size = places.size;
  }

  void allocate() {
    Places<T> places;
    Call<T>& call = step_.call;
    const Index theta = places.take(call.shape.packed), transposed = places.take(call.shape.transposed);
    const Index lr = places.take(call.shape.packed);
    const Index lambda = places.take(elements(call.parts, call.shape.packed)), total = places.take(call.shape.packed);
    const Index workspaces = places.take(elements(prepared_.size(), call.space.size));
    bytes_ = bytes_of<T>(places.size);
    scratch_ = std::make_unique<Scratch>(bytes_);
    T* base = static_cast<T*>(scratch_->data());
    if (poison) std::memset(base, 0xff, bytes_);
    call.theta = base + theta;
    call.theta_transposed = base + transposed;
    inner_lr_ = base + lr;
    call.adjoints = base + lambda;
    call.total = base + total;
    workspaces_ = base + workspaces;
  }

  const Kernels<T>* table_;
  bool everywhere_;
  Request<T> asked_;
  std::vector<Layer> layers_;
  std::vector<LayerPlace<T>> places_;
  std::vector<char> by_products_;
  std::vector<Index> first_;
  OneStepCall<T> step_;
  std::vector<char> prepared_;  // threads
  std::unique_ptr<Scratch> scratch_;
  std::size_t bytes_ = 0;
  T* inner_lr_ = nullptr;
  T* workspaces_ = nullptr;
};

}  // namespace
}  // namespace fastmaml
