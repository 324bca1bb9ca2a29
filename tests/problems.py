"""Small networks and meta-batches for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastmaml import engines
from fastmaml.batch import Samples, TaskBatch
from fastmaml.plan import InnerLr, Plan
from fastmaml.runtime import direct

#: engines that run on this machine's CPU
ON_CPU = [name for name in engines.available() if name != "gpu"]


def network(
    widths: Sequence[int] = (3, 6, 5, 2),
    activation: type[nn.Module] = nn.Tanh,
    norm: bool = False,
    dtype: torch.dtype = torch.float64,
) -> nn.Sequential:
    """Linear (BatchNorm1d) activation … Linear."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), *([nn.BatchNorm1d(outputs)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:])).to(dtype)


def samples(
    tasks: int = 3,
    count: int = 5,
    inputs: int = 3,
    outputs: int = 2,
    loss: str = "mse",
    ragged: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Samples:
    """Ragged ones keep at least two real samples a task, of uneven weight."""
    x = torch.randn(tasks, count, inputs, dtype=dtype)
    y = torch.randn(tasks, count, outputs, dtype=dtype)
    labels = torch.randint(outputs, (tasks, count))
    kept = torch.randint(min(2, count), count + 1, (tasks, 1))
    weights = (0.5 + torch.rand(tasks, count, dtype=dtype)) * (torch.arange(count) < kept)
    return Samples(x, y if loss == "mse" else labels, weights if ragged else None)


def weighted(batch: TaskBatch) -> TaskBatch:
    """The batch with uneven weights of its tasks, the last of which has none."""
    weights = torch.arange(batch.num_tasks - 1, -1, -1).to(batch.support.x.dtype)
    return TaskBatch(batch.support, batch.query, weights)


def task_batch(tasks: int = 3, support: int = 5, query: int = 4, **kinds) -> TaskBatch:
    return TaskBatch(samples(tasks, support, **kinds), samples(tasks, query, **kinds))


def parameters_of(plan: Plan) -> Tensor:
    """[P]."""
    return plan.flatten(dict(plan.module.named_parameters())).detach()


def inner_lr(plan: Plan, lr: float = 0.1, **kinds) -> InnerLr:
    """One step size for all that is adapted."""
    values = torch.cat([torch.full((slot.numel,), lr * slot.adapted) for slot in plan.slots])
    return InnerLr(values.to(next(plan.module.parameters()).dtype), **kinds)


def finite_differences(function, at: Tensor, step: float = 1e-5) -> Tensor:
    """Gradient of a scalar function, by central differences along each axis."""
    directions = step * torch.eye(at.numel(), dtype=at.dtype).reshape(-1, *at.shape)
    return torch.stack([(function(at + d) - function(at - d)) / (2 * step) for d in directions]).reshape(at.shape)


def gradients(maml: nn.Module) -> Tensor:
    """All gradients of a module as one vector; zeros for None."""
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in maml.parameters()])


def relative_error(given: Tensor, wanted: Tensor) -> float:
    return float((given.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-30))


def served_by(verb, monkeypatch):
    """A list that grows, by each call of this function of `direct`, by whether it has served."""
    served, real = [], getattr(direct, verb)

    def spy(*arguments):
        done = real(*arguments)
        served.append(done is not None)
        return done

    monkeypatch.setattr(direct, verb, spy)
    return served
