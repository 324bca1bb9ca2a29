// A meta-gradient through one inner step, in which a task has weights of its own only where they are few
// (generic/forms/products/loop.h).
#pragma once

#include "plain/copies.h"

namespace fastmaml {

// Tasks go in blocks, each a part of the sum over tasks: what they share is multiplied for a whole block at a time.
// `call`'s shape is that of a block, its samples are counted by task.
template <class T>
struct OneStepCall {
  Call<T> call;
  const T* inner_lr = nullptr;  // as the user gave it [P], one value for each parameter tensor

  const char* by_products = nullptr;  // of each layer; the others have weights of their own for each task

  // places in a workspace: of each layer, [rows of the query set, stride], stride >= support samples
  Index input_products = 0, adjoint_products = 0, stride = 0;
  Index fast = 0, direction = 0;  // packed parameters of each task of a block, of the layers that have their own
  Index fast_transposed = 0, direction_transposed = 0;
  Index most = 0;  // tasks of a block

  const Index* first = nullptr;  // task of each block [parts + 1]
};

}  // namespace fastmaml
