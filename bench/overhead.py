"""What Python costs beyond the one call into the compiled core, and what PyTorch alone costs in the same place."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.contest import ours
from bench.problem import Problem
from bench.report import Overhead
from fastmaml.engines import cpu


def overheads(problem: Problem, calls: int = 2000) -> list[Overhead]:
    """Medians, the `cpu` engine forced; at last of an autograd function that does nothing, with our inputs."""
    nothing = statistics.median(_seconds(_does_nothing(problem)) for _ in range(calls))
    return [
        _overhead("maml.backward", ours(problem, engine="cpu"), calls),
        _overhead("meta_loss, backward", ours(problem, engine="cpu", autograd=True), calls),
        Overhead("an empty autograd.Function, backward", nothing, None),
    ]


def _overhead(name: str, step: Callable[[], Any], calls: int) -> Overhead:
    """Both parts in the same calls: the core's entry is replaced by one that looks at the clock around it."""
    spent: list[float] = []
    with mock.patch.object(cpu, "_verb", _timed(cpu._verb, spent)):
        for _ in range(calls // 10):
            step()
        spent.clear()
        totals = [_seconds(step) for _ in range(calls)]
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


def _does_nothing(problem: Problem) -> Callable[[], Any]:
    parameters = [parameter.detach().clone().requires_grad_() for parameter in problem.network.parameters()]
    gradients = tuple(torch.ones_like(parameter) for parameter in parameters)

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss: Tensor = _Empty.apply((torch.zeros(()),), gradients, *parameters)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]

    return step


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


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
