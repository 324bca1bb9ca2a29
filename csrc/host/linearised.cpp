#include "host/linearised.h"

#include <cmath>
#include <numeric>

#include "host/copies_job.h"
#include "host/no_room.h"

namespace fastmaml {

namespace {

constexpr Index kMostOutputs = 8;        // a Jacobian costs one matrix product an output, before it saves any
constexpr Index kMostCrossFactors = 16;  // so do cross sums, for each pair of an input and an output
constexpr std::size_t kMostBytes = std::size_t{1} << 29;

// The number of linear layers with ReLUs between them, if these, and an `append` perhaps, are all of the network.
Index straight_linears(const Network& network) {
  const Layer* layers = network.layers;
  const Index depth = network.depth - (layers[network.depth - 1].kind == Kind::append ? 1 : 0);
  for (Index l = 0; l < depth; ++l) {
    const bool last = l == depth - 1;
    if (layers[l].kind != Kind::linear || layers[l].image || layers[l].channels > 0 || layers[l].relu == last) return 0;
  }
  return depth >= 2 && layers[depth - 1].layout == Layout::inputs_in_lanes ? depth : 0;
}

// Whether the cross sums are few enough to be worth keeping.
template <class T>
bool has_cross_sums(const Call<T>& call, const KeptForm<T>& form) {
  if (form.linears != 3) return false;
  const Layer* layers = call.network.layers;
  for (Index l = 0; l < 3; ++l)
    if (layers[l].bias < 0 || (l < 2 && layers[l].layout != Layout::outputs_in_lanes)) return false;
  return (layers[0].in + 1) * layers[2].out <= kMostCrossFactors;
}

template <class T>
KeptForm<T> choose_form(const Call<T>& call, Index pieces) {
  KeptForm<T> form;
  form.stationary = call.stationary;
  form.linears = straight_linears(call.network);
  if (form.linears == 0) return form;
  form.outputs = call.network.layers[form.linears - 1].out;
  if (form.outputs > kMostOutputs) return form;
  if (!form.stationary && !has_cross_sums(call, form)) return form;
  const LayerPlace<T>* places = call.shape.places;
  for (Index l = 1; l < form.linears - 1; ++l)
    form.piece += elements(form.outputs, call.shape.support, places[l].input_width);
  form.sums = elements(pieces, form.piece);
  if (!form.stationary) {
    form.inputs = places[0].packed_rows;
    form.rows = places[1].packed_rows;
    form.columns = places[1].packed_width;
  }
  form.pieces = pieces;
  for (Index l = 0; l < form.linears; ++l)
    form.list = std::max({form.list, call.network.layers[l].in + 1, form.outputs});
  form.size = form.sums + aligned<T>(elements(form.inputs, form.rows, form.outputs, form.columns));
  form.jacobian = bytes_of<T>(elements(call.tasks, form.size)) <= kMostBytes;
  return form;
}

// Where a sample of one or two inputs lies: samples that follow each other in this open the same ReLUs. Around the
// origin, as half-planes are where biases are small.
template <class T>
double place_of(const T* x, Index inputs) {
  return static_cast<double>(inputs == 1 ? x[0] : std::atan2(x[1], x[0]));
}

template <class T>
void order_samples(const T* x, Index n, Index inputs, Index* order) {
  std::vector<double> places(static_cast<std::size_t>(n));
  for (Index r = 0; r < n; ++r) {
    const double place = place_of(x + r * inputs, inputs);
    places[static_cast<std::size_t>(r)] = std::isnan(place) ? 0 : place;
  }
  std::iota(order, order + n, Index(0));
  std::sort(order, order + n, [&](Index a, Index b) {
    const double first = places[static_cast<std::size_t>(a)], second = places[static_cast<std::size_t>(b)];
    return first != second ? first < second : a < b;
  });
}

// The pieces of all tasks, each with layers, places and lists of its own; at first each is the whole network.
template <class T>
class ActivePieces {
 public:
  void make(const Call<T>& call, KeptForm<T>& form) {
    const auto depth = static_cast<std::size_t>(call.network.depth);
    const auto count = static_cast<std::size_t>(call.tasks * form.pieces);
    const auto lists = static_cast<std::size_t>((form.linears + 1) * form.list);
    pieces_.resize(count);
    units_.resize(count * lists);
    for (std::size_t i = 0; i < count; ++i) {
      layers_.insert(layers_.end(), call.network.layers, call.network.layers + depth);
      places_.insert(places_.end(), call.shape.places, call.shape.places + depth);
    }
    for (std::size_t i = 0; i < count; ++i) {
      ActivePiece<T>& piece = pieces_[i];
      piece.layers = &layers_[i * depth];
      piece.places = &places_[i * depth];
      piece.units = &units_[i * lists];
      std::iota(piece.units, piece.units + form.list, 0);
      std::iota(piece.units + form.linears * form.list, piece.units + (form.linears + 1) * form.list, 0);
      piece.network = call.network;
      piece.network.layers = piece.layers;
      piece.shape = call.shape;
      piece.shape.places = piece.places;
    }
    form.active = pieces_.data();
  }

 private:
  std::vector<ActivePiece<T>> pieces_;
  std::vector<Layer> layers_;
  std::vector<LayerPlace<T>> places_;
  std::vector<std::int32_t> units_;
};

}  // namespace

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
    call.form = choose_form(call, call.space.slots);
    KeptForm<T>& form = call.form;
    form.left = places.take(elements(form.inputs, form.rows, call.shape.support) + kPanel<T>);
    form.right = places.take(elements(form.outputs, form.columns, call.shape.support));
    form.theta = places.take(form.jacobian ? call.shape.packed : 0);
    form.direction = places.take(form.jacobian ? call.shape.packed : 0);
    form.product = places.take(form.jacobian ? call.shape.packed : 0);
    call.tangents.size = places.size;
    if (form.jacobian && call.network.inputs <= 2) order_all(request);
  }

  void order_all(const Request<T>& request) {
    Call<T>& call = job.call();
    const Index n = request.support.n, inputs = call.network.inputs;
    order.resize(static_cast<std::size_t>(elements(call.tasks, n)));
    parallel_for(request.threads, call.tasks, [&](int, long task) {
      order_samples(request.support.x + task * n * inputs, n, inputs, &order[static_cast<std::size_t>(task * n)]);
    });
    call.order = order.data();
  }

  // Of what the form keeps, once.
  void take_memory() {
    KeptForm<T>& form = job.call().form;
    if (!form.jacobian || form.kept) return;
    const std::size_t bytes = bytes_of<T>(elements(job.call().tasks, form.size));
    kept = std::make_unique<Scratch>(bytes);
    active = {};
    active.make(job.call(), form);
    has_form.resize(static_cast<std::size_t>(job.call().tasks));
    form.kept = static_cast<T*>(kept->data());
    if (poison) std::memset(form.kept, 0xff, bytes);
  }

  // Of some tasks only, where the first product was cut short.
  bool lacks_form(Index task) { return job.call().form.jacobian && !has_form[static_cast<std::size_t>(task)]; }

  Job<T> job;
  std::vector<Index> present;  // samples of each task
  std::vector<Index> order;    // of the samples [tasks, n], where neighbours have much in common
  std::unique_ptr<Scratch> kept;
  ActivePieces<T> active;
  std::vector<char> has_form;  // of the tasks
};

template <class T>
Linearised<T>::Linearised(const Model& model, const Request<T>& request, T* gradients)
    : impl_(with_room(request, [&] { return std::make_unique<Impl>(model, request, gradients); })) {
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
  const std::size_t bytes = bytes_of<T>(elements(threads, call.tangents.size));
  const Scratch scratch(bytes);
  T* tangents = static_cast<T*>(scratch.data());
  if (poison) std::memset(tangents, 0xff, bytes);
  std::vector<char> prepared(static_cast<std::size_t>(threads), 0);
  const Kernels<T>& table = kernels<T>();
  impl_->take_memory();
  parallel_for(threads, call.tasks, [&](int thread, long task) {
    T* own = tangents + thread * call.tangents.size;
    if (!prepared[static_cast<std::size_t>(thread)]) table.prepare_tangents(call, own);
    prepared[static_cast<std::size_t>(thread)] = 1;
    if (impl_->lacks_form(task)) {
      table.keep_form(call, impl_->job.workspace(task), own, task);
      impl_->has_form[static_cast<std::size_t>(task)] = 1;
    }
    table.kept_product(call, impl_->job.workspace(task), own, task);
  });
}

template class Linearised<float>;
template class Linearised<double>;

}  // namespace fastmaml
