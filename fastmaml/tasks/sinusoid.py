"""Sinusoid regression (Finn et al. 2017, section 5.1): each task is a wave of its own amplitude and phase."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.tasks.base import TaskStream, check_count
from fastmaml.threads import one_thread

BLOCK = 64  # meta-batches drawn at a time in a stream: the cost of drawing is mostly that of calling torch


@dataclass(frozen=True)
class SineWaves:
    """The functions y = A sin(x - φ) behind T tasks: `amplitude` [T] and `phase` [T], in radians."""

    amplitude: Tensor
    phase: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The true targets [T, N, 1] at inputs x [T, N, 1] (or [1, N, 1], the same for all tasks)."""
        return self.amplitude[:, None, None] * torch.sin(x - self.phase[:, None, None])


class Sinusoid:
    """Tasks y = A sin(x - φ) with A, φ and x uniform (Finn et al. 2017, section 5.1).

    A batch holds support x [T, shots, 1] and y [T, shots, 1], and query x and y [T, queries, 1], float32 on
    the generator's device. With `oracle`, x is [T, N, 3]: the input, the amplitude and the phase, which is
    what the oracle of the paper's figures 2 and 3 is given.

    Args:
        shots: support points of a task.
        queries: query points of a task.
        oracle: give the amplitude and the phase to the network as inputs.
        amplitude, phase, x: the ranges (low, high) to draw from; phase in radians.

    Raises:
        ValueError: `shots` or `queries` below one, or a range that is not finite with low ≤ high.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 10,
        *,
        oracle: bool = False,
        amplitude: tuple[float, float] = (0.1, 5.0),
        phase: tuple[float, float] = (0.0, math.pi),
        x: tuple[float, float] = (-5.0, 5.0),
    ) -> None:
        self.shots = check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.oracle = oracle
        ranges = [_check_range("amplitude", amplitude), _check_range("phase", phase)]
        ranges += [_check_range("x", x)] * (shots + queries)
        self._low = torch.tensor(
            [low for low, _ in ranges], dtype=torch.float32
        )  # [2 + N + M], as are the draws of one task
        self._span = torch.tensor([high - low for low, high in ranges], dtype=torch.float32)

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """One meta-batch of `num_tasks` tasks."""
        return self.sample_tasks(num_tasks, generator)[0]

    def sample_tasks(self, num_tasks: int, generator: torch.Generator) -> tuple[TaskBatch, SineWaves]:
        """The meta-batch that `sample` gives, and the functions behind its tasks."""
        draws = self._draw((check_count("num_tasks", num_tasks),), generator)
        return _batch(*self._points(draws)), SineWaves(draws[:, 0], draws[:, 1])

    def sample_block(self, count: int, num_tasks: int, generator: torch.Generator) -> list[TaskBatch]:
        """`count` meta-batches in one go: the tasks that as many calls of `sample` would draw on a CPU."""
        shape = (check_count("count", count), check_count("num_tasks", num_tasks))
        with one_thread():
            points = self._points(self._draw(shape, generator))
        return [_batch(*parts) for parts in zip(*(part.unbind(0) for part in points), strict=True)]

    def stream(self, num_tasks: int, generator: torch.Generator) -> TaskStream:
        """An endless iterator of meta-batches that resumes exactly; what a trainer draws from."""
        return TaskStream(self, num_tasks, generator, block=BLOCK)

    @property
    def device(self) -> torch.device:
        """Where a trainer draws: on a GPU, the tasks make no trip from the host."""
        return self._low.device

    def to(self, device: torch.device | str) -> Sinusoid:
        """The same tasks, drawn on another device, where random numbers are others."""
        moved = copy.copy(self)
        moved._low, moved._span = self._low.to(device), self._span.to(device)
        return moved

    def _draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        device = generator.device
        uniform = torch.rand(*shape, len(self._low), generator=generator, device=device, dtype=torch.float32)
        return torch.addcmul(self._low.to(device), uniform, self._span.to(device))  # [..., T, A φ x x x …]

    def _points(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Support x, y and query x, y, each [..., T, N, features] and contiguous."""
        amplitude, phase, x = draws[..., :1], draws[..., 1:2], draws[..., 2:]
        y = torch.sin(x - phase).mul_(amplitude).unsqueeze(-1)
        x = x.unsqueeze(-1)
        if self.oracle:
            known = draws[..., None, :2].expand(*x.shape[:-1], 2)
            x = torch.cat((x, known), dim=-1)
        support, query = slice(None, self.shots), slice(self.shots, None)
        parts = x[..., support, :], y[..., support, :], x[..., query, :], y[..., query, :]
        return tuple(part.contiguous() for part in parts)  # type: ignore[return-value]


def _batch(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> TaskBatch:
    return TaskBatch(Samples(support_x, support_y), Samples(query_x, query_y))


def _check_range(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name}={bounds!r}: give (low, high), both finite, low not above high")
    return float(low), float(high)
