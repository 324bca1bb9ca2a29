"""What Python costs beyond the one call into the compiled core, and what PyTorch alone costs in the same place."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.contest import ours, seconds_of
from bench.problem import Problem
from bench.report import Overhead
from fastmaml import MAML
from fastmaml.engines import cpu


def overheads(problem: Problem, seconds: float = 2.0, at_least: int = 5) -> list[Overhead]:
    """Medians over calls that take so long, the `cpu` engine forced; at last of an autograd function that does nothing.

    That one has our inputs: what it takes is PyTorch's own share of the second.
    """
    nothing = statistics.median(_repeat(_does_nothing(problem), seconds / 4, at_least))
    return [
        _of_backward(problem, seconds, at_least),
        _of_meta_loss(problem, seconds, at_least),
        Overhead("an empty autograd.Function, backward", nothing, None),
    ]


def _of_backward(problem: Problem, seconds: float, at_least: int) -> Overhead:
    """The core itself says what it took, so that what it asks of Python counts as Python."""
    spent: list[float] = []
    maml = MAML(problem.network, lr=problem.lr, steps=problem.steps, loss=problem.loss, engine="cpu")
    parameters = list(problem.network.parameters())

    def step() -> float:
        for parameter in parameters:
            parameter.grad = None
        taken = seconds_of(lambda: maml.backward(problem.batch))
        prepared = maml._current().prepared
        assert prepared is not None
        spent.append(prepared.seconds)
        return taken

    return _overhead("maml.backward", step, spent, seconds, at_least)


def _of_meta_loss(problem: Problem, seconds: float, at_least: int) -> Overhead:
    """The core's entry is replaced by one that looks at the clock around it."""
    spent: list[float] = []
    step = ours(problem, engine="cpu", autograd=True)
    with mock.patch.object(cpu, "_verb", _timed(cpu._verb, spent)):
        return _overhead("meta_loss, backward", lambda: seconds_of(step), spent, seconds, at_least)


def _overhead(name: str, step: Callable[[], float], spent: list[float], seconds: float, at_least: int) -> Overhead:
    """Both parts in the same calls: each gives its seconds, and adds those of the core to `spent`."""
    _repeat(step, seconds / 10, 1)
    spent.clear()
    totals = _repeat(step, seconds, at_least)
    beyond = [total - inside for total, inside in zip(totals, spent, strict=True)]
    return Overhead(name, statistics.median(beyond), statistics.median(spent))


class _Empty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: tuple[Tensor], gradients: tuple[Tensor, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.gradients


def _does_nothing(problem: Problem) -> Callable[[], float]:
    parameters = [parameter.detach().clone().requires_grad_() for parameter in problem.network.parameters()]
    gradients = tuple(torch.ones_like(parameter) for parameter in parameters)

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss: Tensor = _Empty.apply((torch.zeros(()),), gradients, *parameters)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]

    return lambda: seconds_of(step)


def _timed(verb: Callable[..., Callable[..., Any]], spent: list[float]) -> Callable[..., Callable[..., Any]]:
    def timed_verb(*arguments: Any) -> Callable[..., Any]:
        call = verb(*arguments)

        def timed_call(*arguments: Any) -> Any:
            start = time.perf_counter()
            answer = call(*arguments)
            spent.append(time.perf_counter() - start)
            return answer

        return timed_call

    return timed_verb


def _repeat(call: Callable[[], float], seconds: float, at_least: int) -> list[float]:
    """What each call says it took."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < at_least or time.perf_counter() < end:
        times.append(call())
    return times
