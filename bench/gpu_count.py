"""What the gpu engine does for a problem, counted without a GPU: launches, bytes, and the floors they imply.

Tensors are on torch's meta device, and each launch is noted rather than made. A launch reads or writes each map of
activations once at least, and the weights of its layer; flat updates touch all their vectors. That is a lower bound:
tiles that are read again, mostly from the L2 cache, do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.operations import necessary
from bench.problem import Problem

PEAKS = {"ieee": 67e12, "tf32": 494e12}
"""Operations a second of an H200 (data sheet): float32 units, TF32 tensor cores without sparsity."""

BANDWIDTH = 4.8e12
"""Bytes a second of an H200 (data sheet)."""

LAUNCH = 1.5e-6
"""Seconds from one launch to the next in a CUDA graph: an assumption, to be measured."""


@dataclass(frozen=True)
class Count:
    """Of one exact second-order meta-gradient."""

    operations: int
    launches: int
    bytes: int

    def floor(self, precision: str) -> float:
        """Seconds below which it cannot be, by the largest of arithmetic, traffic and launches."""
        return max(self.operations / PEAKS[precision], self.bytes / BANDWIDTH, self.launches * LAUNCH)


def count(problem: Problem) -> Count:
    """Counts a problem on the meta device."""
    from fastmaml.engines.gpu import GpuEngine
    from fastmaml.gradients import SecondOrder
    from fastmaml.plan import InnerLr

    plan, batch = problem.plan, problem.batch
    moved = problem.on(torch.device("meta")).batch
    theta = torch.empty(plan.num_parameters, device="meta")
    engine = GpuEngine(devices=("cuda", "meta"))
    with _noting() as (sizes,), mock.patch("fastmaml.engines.gpu._programs", return_value=1056):
        engine.meta_gradient(plan, theta, InnerLr(torch.empty_like(theta)), moved, problem.steps, SecondOrder())
    n, m = batch.support.num_samples, batch.query.num_samples
    sample = tuple(batch.support.x.shape[2:])
    return Count(necessary(plan, batch.num_tasks, n, m, problem.steps, sample), len(sizes), sum(sizes))


@contextmanager
def _noting() -> Iterator[tuple[list[int]]]:
    """Bytes of each launch, in order; nothing runs."""
    from fastmaml.kernels import flat

    sizes: list[int] = []

    def note(kernel: Any, *args: Any, **kwargs: Any) -> None:
        named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        sizes.append(4 * _numbers(kernel.fn.__name__, named))

    with mock.patch.object(type(flat._sum_kernel), "run", note):
        yield (sizes,)


def _numbers(name: str, named: dict[str, Any]) -> int:
    """Numbers that a launch reads and writes at least once."""
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    distinct = {(id(value._base) if value._base is not None else id(value)): value for value in tensors.values()}
    if "CI" in named:
        maps = sum(value.numel() for value in distinct.values() if value.dim() >= 4)
        weights = named["CI"] * named["CO"] * named["K"] ** 2 * distinct[id(named["y"])].shape[0] if "y" in named else 0
        return maps + weights
    if "NET" in named:  # activations and copies of tasks in flight stay in the caches
        return sum(named[key].numel() for key in ("support_x", "query_x", "sums", "theta") if key in named)
    if "ACTIVATION" in named:
        return sum(value.numel() for value in distinct.values() if value.dim() >= 4)
    return sum(value.numel() for value in distinct.values())
