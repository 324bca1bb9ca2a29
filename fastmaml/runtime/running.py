"""Running statistics of a network that meta-learns, kept up to date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastmaml.batch import Samples
from fastmaml.engines.base import autograd
from fastmaml.plan import Plan
from fastmaml.plan.statistics import updates_statistics


def update_statistics(plan: Plan, passes: Iterable[tuple[Tensor, Samples]]) -> None:
    """Moves the running statistics of the plan's module towards those of some forward passes.

    Each pass of each task starts from the present statistics and updates a copy of them as torch does, by the norm's
    own momentum. The mean of these copies over tasks and passes becomes the statistics. The random state stays.

    Args:
        passes: (fast parameters [T, P], the samples that they see); padding has no part.
    """
    kept = dict(_statistics(plan.module))
    sums = {name: torch.zeros_like(buffer, dtype=torch.float64) for name, buffer in kept.items()}
    device, count = next(plan.module.parameters()).device, 0
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for fast, samples in passes:
            for theta, x in zip(fast, _real_inputs(samples), strict=True):
                updated = _after(plan, theta, x)
                for name, total in sums.items():
                    total += updated[name]
                count += 1
    with torch.no_grad():
        for name, buffer in kept.items():
            buffer.copy_(sums[name] / count)


def _statistics(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for path, child in module.named_modules():
        if updates_statistics(child):
            yield from child.named_buffers(path, recurse=False)


def _after(plan: Plan, theta: Tensor, x: Tensor) -> dict[str, Tensor]:
    """The module's buffers after one forward pass."""
    buffers = {name: buffer.clone() for name, buffer in plan.module.named_buffers()}
    with autograd(False):
        functional_call(plan.module, (plan.unflatten(theta), buffers), (x,))
    return buffers


def _real_inputs(samples: Samples) -> list[Tensor]:
    if samples.weights is None:
        return list(samples.x)
    return [x[weight > 0] for x, weight in zip(samples.x, samples.weights, strict=True)]
