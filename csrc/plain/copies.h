// One call of a verb: its inputs, its outputs and the places of its scratch memory.
#pragma once

#include "plain/linearised.h"
#include "plain/network.h"

namespace fastmaml {

// T tasks' samples as the user gave them: x [T, n, inputs], y, weights [T, n] or null.
template <class T>
struct Samples {
  const T* x = nullptr;
  const T* values = nullptr;             // [T, n, target_width], for all losses but cross-entropy
  const std::int64_t* labels = nullptr;  // [T, n], for cross-entropy
  const T* weights = nullptr;
  Index n = 0;
};

enum class Problem : int { none = 0, label_out_of_range, no_weight };

struct Status {
  Problem problem = Problem::none;
  bool query = false;
  Index task = 0, sample = 0;
  std::int64_t value = 0;
};

// Places in one thread's workspace.
template <class T>
struct Workspace {
  Index thetas = 0;                      // theta_1 ... theta_K, each [packed]
  Index transposed = 0, transposes = 1;  // of theta_1 ... theta_K; or of one at a time, made again when it is needed
  Index direction = 0, direction_transposed = 0;
  Index states = 0, slots = 0;  // `slots` support states: one, or one a step
  Index query_state = 0, tangent_state = 0;
  Index data[2] = {0, 0}, weights[2] = {0, 0}, values[2] = {0, 0}, labels[2] = {0, 0};
  Index patches[2] = {0, 0};
  Index order[2] = {0, 0};  // of the samples, where they are not taken as they come: Index [n]
  Index gram_products = 0, gram_initial = 0, gram_tangent = 0, gram_stride = 0;
  Index size = 0;
};

template <class T>
struct Call {
  Network network;
  Shape<T> shape;
  Workspace<T> space;
  Index tasks = 0, parts = 0;  // parts: of the sum over tasks, as many as there are vectors of adjoints
  Samples<T> sets[2];          // support, query
  bool second_order = true;
  const T* task_scales = nullptr;  // [tasks], or null

  const T* parameters = nullptr;  // as the user gave them [P], or [tasks, P]
  bool shared = true;             // [P]: packed once for all tasks
  const T* vectors = nullptr;     // [tasks, P]

  T *theta = nullptr, *theta_transposed = nullptr;  // packed, where shared
  T* inner_lr = nullptr;                            // packed; null where all elements have one_inner_lr
  T one_inner_lr = T(0);
  T* gram_weights = nullptr;                      // [out, padded(in + 1)], bias as a column
  T gram_lr[2] = {0, 0};                          // of the weight and of the bias
  T* gram_data = nullptr;                         // [tasks, support + query, padded(in + 1)]
  T* gram_adjoints = nullptr;                     // [tasks, support + query, padded(out)]
  T* adjoints = nullptr;                          // lambda [parts, packed]
  T* inner_lr_adjoints = nullptr;                 // [tasks, packed], or null
  T *total = nullptr, *inner_lr_total = nullptr;  // sums over tasks [packed]
  T* gram_total = nullptr;                        // [out, padded(in + 1)]

  T* fast = nullptr;            // [tasks, P]
  T* support_losses = nullptr;  // [tasks, K]
  T* query_losses = nullptr;    // [tasks]
  T* outputs = nullptr;         // [tasks, n, outputs]
  T* products = nullptr;        // [tasks, P]

  // linearised samples: a workspace holds what is kept of a task, `tangents` are the places in a thread's own memory
  Workspace<T> tangents;
  Index* present = nullptr;    // samples of non-zero weight [tasks]
  bool stationary = false;     // the loss's gradient in the outputs is zero
  bool shared_vector = false;  // vectors [P], the same for all tasks
  KeptForm<T> form;
  const Index* order = nullptr;  // of each task's samples [tasks, n]; null: as they come
};

template <class T>
struct LaneCall;  // lanes.h
template <class T>
struct OneStepCall;  // products.h

constexpr Index kReducePiece = 2048;  // packed elements summed by one job
constexpr Index kGramPiece = 16;      // rows of the Gram layer's gradient made by one job

// What every instruction set provides. A workspace belongs to one thread and is prepared once a call.
template <class T>
struct Kernels {
  void (*prepare)(const Call<T>&, T* workspace);
  void (*pack_shared)(const Call<T>&);
  void (*unpack_mean)(const Call<T>&, const T* total, T* gradient);
  Status (*meta_gradient)(const Call<T>&, T* workspace, Index task);
  Status (*adapt)(const Call<T>&, T* workspace, Index task);
  Status (*predict)(const Call<T>&, T* workspace, Index task);
  Status (*hvp)(const Call<T>&, T* workspace, Index task);
  Status (*linearise)(const Call<T>&, T* kept, Index task);
  void (*prepare_tangents)(const Call<T>&, T* tangents);
  void (*keep_form)(const Call<T>&, T* kept, T* tangents, Index task);
  void (*kept_product)(const Call<T>&, T* kept, T* tangents, Index task);
  void (*reduce)(const Call<T>&, Index piece);
  void (*reduce_gram)(const Call<T>&, Index piece);

  Index lanes;  // tasks of a group, which take every step together (lanes.h)
  void (*lane_prepare)(const LaneCall<T>&, T* workspace);
  Status (*lane_meta_gradient)(const LaneCall<T>&, T* workspace, Index group);

  void (*one_step_prepare)(const OneStepCall<T>&, T* workspace);
  Status (*one_step)(const OneStepCall<T>&, T* workspace, Index block);
};

struct Isa {
  const char* name;
  const Kernels<float>* single;
  const Kernels<double>* twofold;
};

}  // namespace fastmaml
