"""Samples that are kept for many Hessian-vector products, against the reference's products."""

from __future__ import annotations

import pytest
import torch

from fastmaml.batch import Samples
from fastmaml.engines.cpu import CpuEngine
from fastmaml.engines.reference import ReferenceEngine
from tests.csrc.networks import Problem, problem, relative
from tests.csrc.test_convolution import problem as image_problem
from tests.csrc.test_core import BOUNDS, CASES

CPU, REFERENCE = CpuEngine(), ReferenceEngine()
PIECES = {  # more samples than one piece of rows, or a whole number of pieces
    "several pieces": lambda: problem([3, 20, 2], loss="gaussian", support=131, ragged=True),
    "whole pieces": lambda: problem([3, 20, 4], loss="cross_entropy", support=128),
    "batch norm in one piece": lambda: problem([3, 20, 4], norm="affine", loss="categorical", support=100),
}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("case", [*CASES, *PIECES])
def test_products_equal_the_reference(case: str, dtype: torch.dtype, isa: str) -> None:
    p = (CASES | PIECES)[case]()
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


def test_one_start_and_one_vector_for_all_tasks() -> None:
    p = problem([3, 20, 2], loss="gaussian", support=70)
    starts, vector = p.parameters.expand(3, -1), torch.randn_like(p.parameters)
    each = CPU.linearise(p.plan, starts, p.batch.support).product(vector.expand(3, -1))
    assert torch.equal(CPU.linearise(p.plan, p.parameters, p.batch.support).product(vector), each)
    assert relative(REFERENCE.linearise(p.plan, p.parameters, p.batch.support).product(vector), each) <= 1e-12


def test_bitwise_the_same_for_any_number_of_threads() -> None:
    p, found = problem([3, 20, 2], loss="gaussian", support=70, tasks=7).to(torch.float32), []
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
