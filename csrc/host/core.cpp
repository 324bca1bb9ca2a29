#include "host/core.h"

#include <atomic>
#include <thread>

#include "host/lanes_job.h"
#include "host/no_room.h"
#include "host/products_job.h"

namespace fastmaml {

std::atomic<bool> poison{false};

void set_poison(bool on) { poison = on; }

std::atomic<Form> asked_form{Form::automatic};

void set_form(Form form) { asked_form = form; }

Index processors() {
  static const Index count = std::max(1u, std::thread::hardware_concurrency());
  return count;
}

namespace {

template <class T>
Form form_of(const Model& model, const Request<T>& request, bool inner_lr_gradient) {
  const Form asked = asked_form;
  const bool any = asked == Form::automatic, plain = request.shared && !inner_lr_gradient;
  if (!plain || asked == Form::copies) return Form::copies;
  if ((any || asked == Form::products) && can_take_products(model, request) && (!any || products_pay(model, request)))
    return Form::products;
  if ((any || asked == Form::lanes) && can_take_lanes(model, request) && (!any || lanes_pay(model, request)))
    return Form::lanes;
  return Form::copies;
}

// One of the forms that need no more than the mean over tasks.
template <class AnyJob, class T>
Status run_to_mean(AnyJob&& job, const MetaGradientOutputs<T>& outputs) {
  job.call().query_losses = outputs.query_losses;
  job.call().outputs = outputs.query_outputs;
  const Status status = job.run();
  if (status.problem == Problem::none) job.write_mean(outputs.gradient);
  return status;
}

// The job that was kept, or a new one, which is kept.
template <class T>
std::shared_ptr<OneStepJob<T>> one_step_job(const Model& model, const Request<T>& request, Kept* kept) {
  const bool everywhere = asked_form == Form::products;
  auto job = std::static_pointer_cast<OneStepJob<T>>(kept ? *kept : nullptr);
  if (job && job->takes(request, everywhere)) {
    job->take(request);
    return job;
  }
  job = std::make_shared<OneStepJob<T>>(model, request, everywhere);
  if (kept) *kept = job->is_small() ? job : nullptr;
  return job;
}

template <class T>
Status meta_gradient_in_form(const Model& model, const Request<T>& request, const MetaGradientOutputs<T>& outputs,
                             Kept* kept) {
  const Form form = form_of(model, request, outputs.inner_lr_gradient != nullptr);
  if (form == Form::products) return run_to_mean(*one_step_job(model, request, kept), outputs);
  if (form == Form::lanes) return run_to_mean(LaneJob<T>(model, request), outputs);
  Job<T> job(model, request, Verb::meta_gradient, outputs.inner_lr_gradient != nullptr);
  job.call().query_losses = outputs.query_losses;
  job.call().outputs = outputs.query_outputs;
  const Status status = job.run(kernels<T>().meta_gradient);
  if (status.problem != Problem::none) return status;
  job.reduce();
  job.write_mean(job.call().total, outputs.gradient);
  if (outputs.inner_lr_gradient) job.write_mean(job.call().inner_lr_total, outputs.inner_lr_gradient);
  return status;
}

}  // namespace

template <class T>
Status meta_gradient(const Model& model, const Request<T>& request, const MetaGradientOutputs<T>& outputs, Kept* kept) {
  return with_room(request, [&] { return meta_gradient_in_form(model, request, outputs, kept); });
}

template <class T>
Status adapt(const Model& model, const Request<T>& request, T* fast, T* support_losses) {
  return with_room(request, [&] {
    Job<T> job(model, request, Verb::adapt, false);
    job.call().fast = fast;
    job.call().support_losses = support_losses;
    return job.run(kernels<T>().adapt);
  });
}

template <class T>
Status predict(const Model& model, const Request<T>& request, T* outputs) {
  return with_room(request, [&] {
    Job<T> job(model, request, Verb::predict, false);
    job.call().outputs = outputs;
    return job.run(kernels<T>().predict);
  });
}

template <class T>
Status hvp(const Model& model, const Request<T>& request, T* products) {
  return with_room(request, [&] {
    Job<T> job(model, request, Verb::hvp, false);
    job.call().products = products;
    return job.run(kernels<T>().hvp);
  });
}

#define FASTMAML_INSTANTIATE(T)                                                                            \
  template Status meta_gradient<T>(const Model&, const Request<T>&, const MetaGradientOutputs<T>&, Kept*); \
  template Status adapt<T>(const Model&, const Request<T>&, T*, T*);                                       \
  template Status predict<T>(const Model&, const Request<T>&, T*);                                         \
  template Status hvp<T>(const Model&, const Request<T>&, T*);
FASTMAML_INSTANTIATE(float)
FASTMAML_INSTANTIATE(double)

}  // namespace fastmaml
