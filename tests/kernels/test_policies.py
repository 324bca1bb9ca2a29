"""Losses of policies, parameters appended to the outputs, and padding without batch norm, in both kinds of kernels."""

import pytest
import torch
from torch import nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines import get
from fastmaml.models import Append
from fastmaml.plan import Plan
from tests.kernels.test_mlp import check
from tests.problems import parameters_of, relative_error

pytestmark = pytest.mark.usefixtures("poisoned")


def policy(loss, bias=True):
    """3 observations, 2 actions."""
    layers = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=bias)]
    if loss == "gaussian":
        layers.append(Append(torch.tensor([0.3, -0.3])))
    return nn.Sequential(*layers).double()


def episodes(loss, tasks=2, count=4):
    """Steps of episodes of uneven length; targets of either sign, as advantages make them."""

    def draw(samples):
        x = torch.randn(tasks, samples, 3, dtype=torch.float64)
        y = torch.randn(tasks, samples, 2 if loss == "categorical" else 5, dtype=torch.float64)
        if loss == "gaussian":
            y[..., 2:4] = y[..., 2:4].abs()
        weights = torch.ones(tasks, samples, dtype=torch.float64)
        weights[0, -1] = 0
        return Samples(x, y, weights)

    return TaskBatch(draw(count), draw(count + 1))


@pytest.fixture(params=["one launch", "layer by layer"])
def kernels(request, monkeypatch):
    if request.param != "one launch":
        monkeypatch.setattr("fastmaml.kernels.mlp_network.MAX_WIDTH", 4)
    return request.param


@pytest.mark.parametrize("loss", ["gaussian", "categorical"])
def test_losses_of_policies(gpu_engine, device, kernels, launches, loss):
    check(gpu_engine, device, policy(loss), episodes(loss), steps=1, loss=loss)
    assert ("_meta_kernel" in launches) == (kernels == "one launch")


def test_a_layer_without_bias_before_an_appended_parameter(gpu_engine, device, kernels):
    check(gpu_engine, device, policy("gaussian", bias=False), episodes("gaussian", 1, 2), steps=1, loss="gaussian")


def test_padding_may_hold_anything_where_there_is_no_batch_norm(gpu_engine, device, kernels):
    plan = Plan.of(policy("gaussian").float().to(device), "gaussian")
    batch = episodes("gaussian").to(device, torch.float32)
    support = batch.support
    empty = support.weights[..., None] == 0
    spoilt = Samples(support.x.masked_fill(empty, torch.nan), support.y.masked_fill(empty, torch.nan), support.weights)
    rates = torch.full((plan.num_parameters,), 0.1, device=device)
    theta = parameters_of(plan).expand(2, -1).contiguous()
    products = [gpu_engine.hvp(plan, theta, samples, rates.expand(2, -1)) for samples in (support, spoilt)]
    assert products[0].isfinite().all()
    assert torch.equal(*products)


def test_products_of_many_vectors_share_what_they_can(gpu_engine, device, kernels, launches):
    module, batch = policy("gaussian"), episodes("gaussian")
    plan = Plan.of(module, "gaussian")
    theta, vectors = parameters_of(plan), torch.randn(2, 2, plan.num_parameters, dtype=torch.float64)
    exact = get("reference").linearise(plan, theta, batch.support)
    single = Plan.of(module.float().to(device), "gaussian")
    found = gpu_engine.linearise(single, theta.float().to(device), batch.support.to(device, torch.float32))
    assert relative_error(found.gradient.cpu(), exact.gradient) < 1e-5
    counts = []
    for vector in vectors:
        launches.clear()
        product = found.product(vector.float().to(device))
        assert relative_error(product.cpu(), exact.product(vector)) < 1e-5
        counts.append(len(launches))
    assert counts[0] == counts[1] == (1 if kernels == "one launch" else 6)


def test_what_cannot_be_appended_to_is_named(gpu_engine, device):
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), Append(torch.zeros(2)))
    assert "'2' (Append) does not follow a Linear" in gpu_engine.refusal(Plan.of(module, "gaussian"), None, device)
