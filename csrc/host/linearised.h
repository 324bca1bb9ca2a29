// Samples of all tasks at fixed parameters, for any number of products with the Hessian of their loss.
#pragma once

#include <memory>

#include "host/core.h"

namespace fastmaml {

template <class T>
class Linearised {
 public:
  // gradients [tasks, P]; null where the loss is stationary: its gradient in the outputs is zero, and terms with it are
  // left out
  Linearised(const Model&, const Request<T>&, T* gradients);
  ~Linearised();
  const Status& status() const { return status_; }
  // vectors [P] where shared, else [tasks, P]; products [tasks, P]
  void product(const T* vectors, bool shared, int threads, T* products);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  Status status_;
};

}  // namespace fastmaml
