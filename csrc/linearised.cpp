#include "linearised.h"

#include "job.h"

namespace fastmaml {

template <class T>
struct Linearised<T>::Impl {
  Impl(const Model& model, const Request<T>& request, T* gradients)
      : job(model, request, Verb::linearise, false), present(static_cast<std::size_t>(request.tasks)) {
    Call<T>& call = job.call();
    call.present = present.data();
    call.stationary = gradients == nullptr;
    call.products = gradients;
    Places<T> places;
    call.tangents.tangent_state = places.take(call.shape.state);
    call.tangents.direction = places.take(call.shape.packed);
    call.tangents.direction_transposed = places.take(call.shape.transposed);
    call.tangents.size = places.size;
  }

  Job<T> job;
  std::vector<Index> present;  // samples of each task
};

template <class T>
Linearised<T>::Linearised(const Model& model, const Request<T>& request, T* gradients)
    : impl_(std::make_unique<Impl>(model, request, gradients)) {
  Impl& impl = *impl_;
  std::vector<Status> statuses(static_cast<std::size_t>(request.tasks));
  const Kernels<T>& table = kernels<T>();
  parallel_for(request.threads, request.tasks, [&](int, long task) {
    table.prepare(impl.job.call(), impl.job.workspace(task));
    statuses[static_cast<std::size_t>(task)] = table.linearise(impl.job.call(), impl.job.workspace(task), task);
  });
  for (const Status& status : statuses)
    if (status_.problem == Problem::none) status_ = status;
}

template <class T>
Linearised<T>::~Linearised() = default;

template <class T>
void Linearised<T>::product(const T* vectors, bool shared, int threads, T* products) {
  Call<T>& call = impl_->job.call();
  call.vectors = vectors;
  call.shared_vector = shared;
  call.products = products;
  threads = static_cast<int>(std::min<Index>(threads, call.tasks));
  const Scratch scratch(static_cast<std::size_t>(threads * call.tangents.size) * sizeof(T));
  T* tangents = static_cast<T*>(scratch.data());
  if (poison) std::memset(tangents, 0xff, static_cast<std::size_t>(threads * call.tangents.size) * sizeof(T));
  std::vector<char> prepared(static_cast<std::size_t>(threads), 0);
  const Kernels<T>& table = kernels<T>();
  parallel_for(threads, call.tasks, [&](int thread, long task) {
    T* own = tangents + thread * call.tangents.size;
    if (!prepared[static_cast<std::size_t>(thread)]) table.prepare_tangents(call, own);
    prepared[static_cast<std::size_t>(thread)] = 1;
    table.kept_product(call, impl_->job.workspace(task), own, task);
  });
}

template class Linearised<float>;
template class Linearised<double>;

}  // namespace fastmaml
