"""Batch norms that undo what is before them: of one channel's images nothing but signs is left, and most of a gradient
cancels. What is left must be as exact as eager PyTorch's, in float32."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastmaml import MAML
from fastmaml.batch import TaskBatch
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import SecondOrder
from fastmaml.plan import InnerLr, Plan
from tests.csrc.networks import relative

REFERENCE = ReferenceEngine()
LR = 0.02


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, track_running_stats=False)


def averaged() -> nn.Sequential:
    tail = (nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    return nn.Sequential(nn.Conv2d(3, 1, 3), nn.Tanh(), nn.Conv2d(1, 64, 1), norm(64), *tail)


def flattened() -> nn.Sequential:
    tail = (nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    return nn.Sequential(nn.Conv2d(3, 1, 3), nn.Tanh(), nn.Conv2d(1, 8, 1), norm(8), *tail)


def eager(module: nn.Module, batch: TaskBatch, dtype: torch.dtype) -> Tensor:
    """The meta-gradient by autograd through autograd."""
    plan = Plan.of(module.to(dtype), "cross_entropy")
    parameters = plan.flatten(list(module.parameters())).detach()
    lr = InnerLr(torch.full_like(parameters, LR), True, False)
    return REFERENCE.meta_gradient(plan, parameters, lr, batch.to(dtype), 1, SecondOrder()).gradient


def errors(make: Callable[[], nn.Module], offset: float, seed: int) -> tuple[float, float]:
    """Relative errors of the core's meta-gradient and of eager PyTorch's."""
    torch.manual_seed(seed)
    module = make()
    x = [torch.randn(2, 8, 3, 8, 8) + offset for _ in range(2)]
    y = [torch.randint(5, (2, 8)) for _ in range(2)]
    batch = TaskBatch.of((x[0], y[0], x[1], y[1]))
    MAML(module, lr=LR, loss="cross_entropy", engine="cpu").backward(batch)
    ours = torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])
    theirs, truth = eager(module, batch, torch.float32), eager(module, batch, torch.float64)
    return relative(ours.double(), truth), relative(theirs.double(), truth)


@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize("make", [averaged, flattened])
def test_the_core_is_as_exact_as_eager(make: Callable[[], nn.Module], offset: float, isa: str) -> None:
    found = [errors(make, offset, seed) for seed in range(21)]
    ratio = statistics.geometric_mean(ours / theirs for ours, theirs in found)
    assert ratio <= 2, found
