"""The fully connected kernels against the float64 reference: every verb, on memory that holds NaN until written."""

import pytest
import torch
from torch import nn

from fastmaml import MAML, FirstOrder, SecondOrder, TaskBatch
from fastmaml.engines import get
from fastmaml.plan import InnerLr, Plan
from tests.engines.test_parity import verbs
from tests.problems import inner_lr, network, parameters_of, relative_error, task_batch

pytestmark = pytest.mark.usefixtures("poisoned")


def check(engine, device, module, batch, steps=2, rule=SecondOrder(), lr=None, tolerance=1e-5, **kinds):  # noqa: B008
    plan = Plan.of(module, **kinds)
    theta, lr = parameters_of(plan), lr or inner_lr(plan)
    wanted = verbs(get("reference"), plan, theta, lr, batch, steps, rule)
    plan = Plan.of(module.float().to(device), **kinds)
    rates = InnerLr(lr.values.float().to(device), lr.uniform, lr.learned)
    given = verbs(engine, plan, theta.float().to(device), rates, batch.to(device, torch.float32), steps, rule)
    for key, tensor in wanted.items():
        assert given[key].shape == tensor.shape, key
        assert relative_error(given[key].cpu(), tensor) < tolerance, key


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_losses_and_norm_with_padding(gpu_engine, device, loss, norm):
    check(gpu_engine, device, network((3, 5, 2), norm=norm), task_batch(loss=loss, ragged=True), loss=loss)


def test_one_step_of_a_single_sample_and_a_thin_layer(gpu_engine, device):
    batch = task_batch(tasks=3, support=1, query=2, inputs=1, outputs=1)
    check(gpu_engine, device, network((1, 17, 1)), batch, steps=1)


def test_widths_and_samples_beyond_a_tile(gpu_engine, device):
    batch = task_batch(tasks=1, support=18, query=33, inputs=35, outputs=34, loss="cross_entropy")
    check(gpu_engine, device, network((35, 37, 34), norm=True), batch, steps=1, loss="cross_entropy")


@pytest.mark.parametrize("rule", [SecondOrder(), FirstOrder()], ids=["second", "first"])
def test_a_learned_step_size_and_parts_that_stay(gpu_engine, device, rule):
    module, kinds = network((5, 6, 2), norm=True), {"adapted": ["*.bias", "0.weight"], "meta_learned": ["*.weight"]}
    plan = Plan.of(module, **kinds)
    values = torch.rand(plan.num_parameters).double() * (inner_lr(plan).values > 0)
    check(gpu_engine, device, module, task_batch(inputs=5), rule=rule, lr=InnerLr(values, False, True), **kinds)


def test_first_order_and_relu_at_the_end(gpu_engine, device):
    module = nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 2))
    module = nn.Sequential(*module, nn.ReLU()).double()
    check(gpu_engine, device, module, task_batch(inputs=5), steps=3, rule=FirstOrder())


def test_padding_may_hold_anything(gpu_engine, device):
    plan, batch = Plan.of(network((3, 5, 2), norm=True).float().to(device)), task_batch(ragged=True)
    batch = batch.to(device, torch.float32)
    spoilt = [
        type(part)(part.x.masked_fill(part.weights[..., None] == 0, torch.nan), part.y, part.weights)
        for part in (batch.support, batch.query)
    ]
    theta, lr = parameters_of(plan), inner_lr(plan).values.to(device)
    found = [
        gpu_engine.meta_gradient(plan, theta, InnerLr(lr), tasks, 1, SecondOrder())
        for tasks in (batch, TaskBatch(*spoilt))
    ]
    assert torch.equal(found[0].gradient, found[1].gradient)
    assert torch.equal(found[0].query_losses, found[1].query_losses)


def test_divergence_shows(gpu_engine, device):
    """NaN and infinity come out as such, through ReLU too, and not as a plausible number."""
    plan, batch = Plan.of(network((3, 5, 2), nn.ReLU).float().to(device)), task_batch(tasks=2)
    batch = batch.to(device, torch.float32)
    batch.support.x[1, 0, 0] = torch.nan
    theta, lr = parameters_of(plan), InnerLr(inner_lr(plan).values.to(device))
    found = gpu_engine.meta_gradient(plan, theta, lr, batch, 1, SecondOrder())
    assert found.query_losses[0].isfinite()
    assert found.query_losses[1].isnan()
    assert found.gradient.isnan().any()


def test_arguments_stay_and_results_are_fresh(gpu_engine, device):
    plan, batch = Plan.of(network((3, 5, 2)).float().to(device)), task_batch().to(device, torch.float32)
    theta, lr = parameters_of(plan), InnerLr(inner_lr(plan).values.to(device))
    kept = theta.clone(), batch.support.x.clone()
    fast, losses = gpu_engine.adapt(plan, theta, lr, batch.support, 0)
    assert torch.equal(fast, theta.expand(3, -1))
    assert losses.shape == (3, 0)
    first = gpu_engine.meta_gradient(plan, theta, lr, batch, 1, SecondOrder())
    wanted = first.gradient.clone()
    again = gpu_engine.meta_gradient(plan, theta, lr, batch, 1, SecondOrder())
    fast.zero_(), again.gradient.zero_()
    assert torch.equal(first.gradient, wanted)
    assert torch.equal(theta, kept[0])
    assert torch.equal(batch.support.x, kept[1])


def test_a_meta_gradient_of_the_sinusoid_takes_at_most_three_launches(gpu_engine, device, launches):
    model = network((1, 40, 40, 1), nn.ReLU).float().to(device)
    plan, batch = Plan.of(model), task_batch(tasks=1, inputs=1, outputs=1).to(device, torch.float32)
    gpu_engine.meta_gradient(
        plan, parameters_of(plan), InnerLr(inner_lr(plan).values.to(device)), batch, 1, SecondOrder()
    )
    assert launches == ["_meta_kernel", "_sum_kernel"]


def test_behind_maml(gpu_engine, device):
    """Autograd, details, adaptation and prediction around the engine, as a user calls them."""
    model, batch = network((3, 5, 2)).float().to(device), task_batch().to(device, torch.float32)
    ours, exact = MAML(model, lr=0.1, engine=gpu_engine), MAML(model, lr=0.1, engine="reference")
    loss, details = ours.meta_loss(batch, details=True)
    loss.backward()
    given = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    exact.meta_loss(batch).backward()
    for gradient, parameter in zip(given, model.parameters(), strict=True):
        assert relative_error(gradient, parameter.grad) < 1e-5
    assert details.outputs.shape == (3, 4, 2)
    assert relative_error(ours.predict(batch), exact.predict(batch)) < 1e-5
    assert ours.explain().splitlines()[0] == "engine 'gpu': as asked for"
