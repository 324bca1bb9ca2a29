"""Random networks and batches for the core's tests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.gradients import GradientRule, SecondOrder
from fastmaml.models import Append
from fastmaml.plan import InnerLr, Plan


@dataclass(frozen=True)
class Problem:
    plan: Plan
    parameters: Tensor
    inner_lr: InnerLr
    batch: TaskBatch
    steps: int
    rule: GradientRule

    def to(self, dtype: torch.dtype) -> Problem:
        lr = InnerLr(self.inner_lr.values.to(dtype), self.inner_lr.uniform, self.inner_lr.learned)
        return Problem(self.plan, self.parameters.to(dtype), lr, self.batch.to(dtype), self.steps, self.rule)


def network(widths: list[int], activation: type[nn.Module], norm: str, bias: bool = True) -> nn.Sequential:
    """Linear layers with `norm` ("none", "plain", "affine") and an activation between each two."""
    layers: list[nn.Module] = []
    for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out, bias=bias))
        if index < len(widths) - 2:
            if norm != "none":
                layers.append(nn.BatchNorm1d(fan_out, affine=norm == "affine", track_running_stats=False))
            layers.append(activation())
    return nn.Sequential(*layers)


def problem(
    widths: list[int],
    *,
    activation: type[nn.Module] = nn.Tanh,
    norm: str = "none",
    tasks: int = 3,
    support: int = 5,
    query: int = 4,
    steps: int = 2,
    loss: str = "mse",
    ragged: bool = False,
    learned: bool = False,
    rule: GradientRule | None = None,
    bias: bool = True,
    seed: int = 0,
) -> Problem:
    """A float64 problem, the same for the same arguments."""
    torch.manual_seed(seed)
    module = network(widths, activation, norm, bias)
    if loss == "gaussian":
        module.append(Append(0.3 * torch.randn(widths[-1])))
    module = module.double()
    plan = Plan.of(module, loss)
    parameters = plan.flatten(list(module.parameters())).detach()
    parameters = parameters + 0.1 * torch.randn_like(parameters)
    batch = TaskBatch(*(samples(tasks, n, widths, loss, ragged) for n in (support, query)))
    lr = 0.005 if loss == "gaussian" else 0.05  # steps that shrink a deviation to nothing leave only overflow
    inner_lr = InnerLr(torch.full_like(parameters, lr), True, learned)
    return Problem(plan, parameters, inner_lr, batch, steps, rule or SecondOrder())


def samples(tasks: int, n: int, widths: list[int], loss: str, ragged: bool) -> Samples:
    x = torch.randn(tasks, n, widths[0], dtype=torch.float64)
    if loss == "mse":
        y = torch.randn(tasks, n, widths[-1], dtype=torch.float64)
    elif loss == "gaussian":  # centre, spread, scale of either sign
        spread = torch.rand(tasks, n, widths[-1], dtype=torch.float64)
        y = torch.cat([torch.randn_like(spread), spread, torch.randn(tasks, n, 1, dtype=torch.float64)], -1)
    elif loss == "categorical":
        y = torch.randn(tasks, n, widths[-1], dtype=torch.float64)
    else:
        y = torch.randint(0, widths[-1], (tasks, n))
    weights = None
    if ragged:
        weights = torch.rand(tasks, n, dtype=torch.float64) + 0.1
        if n > 2:
            weights[:, n // 2] = 0
    return Samples(x, y, weights)


def relative(value: Tensor, truth: Tensor) -> float:
    """Norm-wise relative error; NaN anywhere gives NaN, which no bound lets through."""
    return float((value.double() - truth).norm() / truth.norm().clamp_min(1e-300))
