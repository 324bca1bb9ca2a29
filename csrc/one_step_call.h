// A meta-gradient through one inner step, in which no task has weights of its own (one_step.h).
#pragma once

#include "call.h"

namespace fastmaml {

// Tasks go in blocks, each a part of the sum over tasks: what they share is multiplied for a whole block at a time.
// `call`'s shape is that of a block, its samples are counted by task.
template <class T>
struct OneStepCall {
  Call<T> call;
  const T* inner_lr = nullptr;  // as the user gave it [P], one value for each parameter tensor

  // places in a workspace: of each layer, [rows of the query set, stride], stride >= support samples
  Index input_products = 0, adjoint_products = 0, stride = 0;

  Index first_task(Index block) const { return block * call.tasks / call.parts; }
};

}  // namespace fastmaml
