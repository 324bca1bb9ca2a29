"""Samples that are kept for many Hessian-vector products, against the reference's products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.cpu import CpuEngine
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import SecondOrder
from fastmaml.models import Append
from fastmaml.plan import InnerLr, Plan
from tests.csrc.networks import Problem, problem, relative
from tests.csrc.test_convolution import problem as image_problem
from tests.csrc.test_core import BOUNDS, CASES

RELU = {"activation": nn.ReLU, "support": 131}
STRAIGHT = {  # straight ReLU networks, whose products go through kept Jacobians and cross sums
    "policy": lambda: problem([2, 100, 100, 2], loss="gaussian", **RELU),
    "odd widths": lambda: problem([3, 20, 17, 3], loss="gaussian", ragged=True, **RELU),
    "categorical": lambda: problem([2, 16, 16, 3], loss="categorical", **RELU),
    "cross-entropy": lambda: problem([1, 9, 32, 2], loss="cross_entropy", **RELU),
    "mse, one output": lambda: problem([1, 40, 40, 1], **RELU),
    "no bias: as any other": lambda: problem([2, 20, 20, 2], bias=False, **RELU),
    "many inputs: as any other": lambda: problem([17, 20, 20, 2], loss="gaussian", **RELU),
    "four layers: as any other": lambda: problem([2, 20, 8, 20, 2], loss="gaussian", **RELU),
}


def dead(layer: int) -> Problem:
    """No sample opens a unit of this hidden layer."""
    p = problem([2, 20, 30, 2], loss="gaussian", activation=nn.ReLU, support=70)
    bias = [slot for slot in p.plan.slots if slot.name.endswith("bias")][layer]
    p.parameters[bias.offset : bias.offset + bias.numel] = -100
    return p


def far_apart() -> Problem:
    """The first piece opens few units and the last one all: half of the samples lie on one ray from the origin."""
    p = problem([2, 60, 70, 3], loss="categorical", activation=nn.ReLU, support=150)
    p.batch.support.x[:, :80] = p.batch.support.x[:, :80, :1].abs() * torch.tensor([-1.0, -0.01], dtype=torch.float64)
    return p


def much_appended() -> Problem:
    """More parameters beside the outputs than a panel has columns."""
    torch.manual_seed(0)
    layers = [nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2), Append(torch.randn(20))]
    plan = Plan.of(nn.Sequential(*layers).double(), "mse")
    x, y = torch.randn(3, 140, 2, dtype=torch.float64), torch.randn(3, 140, 22, dtype=torch.float64)
    parameters = plan.flatten(list(plan.module.parameters())).detach()
    batch = TaskBatch(Samples(x, y), Samples(x, y))
    return Problem(plan, parameters, InnerLr(torch.full_like(parameters, 0.05), True, False), batch, 1, SecondOrder())


SMALLER = {  # pieces whose samples open few hidden units
    "neighbours": lambda: problem([2, 100, 100, 2], loss="gaussian", ragged=True, **{**RELU, "support": 300}),
    "first layer dead": lambda: dead(0),
    "second layer dead": lambda: dead(1),
    "far apart": far_apart,
    "much appended": much_appended,
}
CPU, REFERENCE = CpuEngine(), ReferenceEngine()
PIECES = {  # more samples than one piece of rows, or a whole number of pieces
    "several pieces": lambda: problem([3, 20, 2], loss="gaussian", support=131, ragged=True),
    "whole pieces": lambda: problem([3, 20, 4], loss="cross_entropy", support=128),
    "batch norm in one piece": lambda: problem([3, 20, 4], norm="affine", loss="categorical", support=100),
}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("case", [*CASES, *PIECES, *STRAIGHT, *SMALLER])
def test_products_equal_the_reference(case: str, dtype: torch.dtype, isa: str) -> None:
    p = (CASES | PIECES | STRAIGHT | SMALLER)[case]()
    q, support = p.to(dtype), p.batch.support
    fast = p.parameters + 0.1 * torch.randn(support.num_tasks, p.plan.num_parameters, dtype=torch.float64)
    kept = CPU.linearise(q.plan, fast.to(dtype), q.batch.support)
    for vectors in torch.randn(3, *fast.shape, dtype=torch.float64):
        found = kept.product(vectors.to(dtype))
        assert relative(found, REFERENCE.hvp(p.plan, fast, support, vectors)) <= BOUNDS[dtype]
    truth = REFERENCE.linearise(p.plan, fast, support).gradient
    assert relative(kept.gradient, truth) <= BOUNDS[dtype]


@pytest.mark.parametrize("network", ["pooled", "wide"])
def test_images(network: str, isa: str) -> None:
    p = image_problem(network)
    starts = p.parameters.expand(p.batch.support.num_tasks, -1)
    vectors = torch.randn_like(starts)
    truth = REFERENCE.hvp(p.plan, starts, p.batch.support, vectors)
    assert relative(CPU.linearise(p.plan, p.parameters, p.batch.support).product(vectors), truth) <= 1e-11


def stationary(p: Problem, fast: torch.Tensor) -> Samples:
    """Targets at which the loss's gradient in the outputs is zero: the outputs' own moments or probabilities."""
    x, outputs = p.batch.support.x, CPU.predict(p.plan, fast, p.batch.support.x)
    if p.plan.loss_name == "categorical":
        return Samples(x, outputs.softmax(-1), p.batch.support.weights)
    if p.plan.loss_name == "mse":
        return Samples(x, outputs, p.batch.support.weights)
    mean, log_std = outputs.chunk(2, -1)
    return Samples(x, torch.cat([mean, (2 * log_std).exp(), torch.ones_like(mean[..., :1])], -1))


@pytest.mark.parametrize("norm", ["none", "affine"])
@pytest.mark.parametrize("loss", ["gaussian", "categorical", "mse"])
def test_of_a_stationary_loss_the_gauss_newton_product_is_the_hessian(loss: str, norm: str, isa: str) -> None:
    ragged = norm == "none" and loss != "gaussian"  # predictions know no padding, which batch norm leaves out
    p = problem([3, 20, 10, 4], loss=loss, norm=norm, support=90, ragged=ragged)
    fast = p.parameters + 0.1 * torch.randn(3, p.plan.num_parameters, dtype=torch.float64)
    samples = stationary(p, fast)
    kept = CPU.linearise(p.plan, fast, samples, stationary=True)
    for vectors in torch.randn(2, *fast.shape, dtype=torch.float64):
        assert relative(kept.product(vectors), REFERENCE.hvp(p.plan, fast, samples, vectors)) <= 1e-11


@pytest.mark.parametrize(
    "widths", [[2, 100, 100, 2], [1, 30, 20, 30, 3], [3, 20, 3], [4, 20, 8, 20, 1], [3, 20, 17, 3]], ids=str
)
@pytest.mark.parametrize("loss", ["gaussian", "categorical", "mse"])
def test_of_a_straight_relu_network_too(loss: str, widths: list[int], isa: str) -> None:
    p = problem(widths, loss=loss, activation=nn.ReLU, support=90)
    fast = p.parameters + 0.1 * torch.randn(3, p.plan.num_parameters, dtype=torch.float64)
    samples = stationary(p, fast)
    kept = CPU.linearise(p.plan, fast, samples, stationary=True)
    for vectors in torch.randn(2, *fast.shape, dtype=torch.float64):
        assert relative(kept.product(vectors), REFERENCE.hvp(p.plan, fast, samples, vectors)) <= 1e-11


def test_one_start_and_one_vector_for_all_tasks() -> None:
    p = problem([3, 20, 2], loss="gaussian", support=70)
    starts, vector = p.parameters.expand(3, -1), torch.randn_like(p.parameters)
    each = CPU.linearise(p.plan, starts, p.batch.support).product(vector.expand(3, -1))
    assert torch.equal(CPU.linearise(p.plan, p.parameters, p.batch.support).product(vector), each)
    assert relative(REFERENCE.linearise(p.plan, p.parameters, p.batch.support).product(vector), each) <= 1e-12


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_bitwise_the_same_for_any_number_of_threads(activation: type[nn.Module]) -> None:
    p = problem([3, 20, 20, 2], loss="gaussian", activation=activation, support=70, tasks=7).to(torch.float32)
    found = []
    before = torch.get_num_threads()
    vectors = torch.randn(7, p.plan.num_parameters)
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(CPU.linearise(p.plan, p.parameters, p.batch.support).product(vectors))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_the_core_refuses_is_told() -> None:
    p = problem([3, 20, 2], loss="cross_entropy")
    p.batch.support.y[1, 2] = 2
    with pytest.raises(ValueError, match="label 2 of task 1, sample 2 is out of range"):
        CPU.linearise(p.plan, p.parameters, p.batch.support)
