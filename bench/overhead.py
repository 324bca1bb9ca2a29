"""What Python costs beyond the compiled core, and what PyTorch alone costs in the same place.

OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 python -m bench.overhead --case sinusoid-1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.contest import seconds_of
from bench.problem import CASES, Problem
from bench.report import Overhead
from fastmaml import MAML


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--case", nargs="+", choices=tuple(CASES), default=["sinusoid-1"])
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each case is measured")
    options = parser.parse_args(arguments)
    for case in options.case:
        print(case)
        for overhead in overheads(CASES[case](), options.seconds):
            print(overhead.line())


def overheads(problem: Problem, seconds: float = 6.0, at_least: int = 5) -> list[Overhead]:
    """Medians over turns that take so long in all, the `cpu` engine forced.

    In each turn each way has its call, so that all meet the same machine. The autograd function that does nothing has
    our inputs: what it takes is PyTorch's own share of ours. It comes right after a call of the core that is not
    followed by autograd: the caches are then as our own way through autograd finds them.
    """
    by_autograd, straight, nothing = _Ours(problem, autograd=True), _Ours(problem, autograd=False), _Nothing(problem)
    ways = [by_autograd, straight, nothing]
    _take_turns(ways, seconds / 10, 1)
    for way in ways:
        way.python.clear()
        way.core.clear()
    _take_turns(ways, seconds, at_least)
    ours_alone = [mine - its for mine, its in zip(by_autograd.python, nothing.python, strict=True)]
    return [
        straight.overhead(),
        by_autograd.overhead(),
        nothing.overhead(),
        Overhead("meta_loss, backward, beyond the empty one", statistics.median(ours_alone), None),
    ]


class _Way:
    """One way to gradients; `python` and `core` have the seconds of each call."""

    def __init__(self, name: str, parameters: Iterable[Tensor]) -> None:
        self.name = name
        self.parameters = list(parameters)
        self.python: list[float] = []
        self.core: list[float] = []

    def call(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        self.python.append(seconds_of(self.step))

    def step(self) -> None:
        raise NotImplementedError

    def overhead(self) -> Overhead:
        return Overhead(self.name, statistics.median(self.python), statistics.median(self.core) if self.core else None)


class _Ours(_Way):
    """The core itself says what it took, so that what it asks of Python counts as Python."""

    def __init__(self, problem: Problem, autograd: bool) -> None:
        super().__init__("meta_loss, backward" if autograd else "maml.backward", problem.network.parameters())
        self._maml = MAML(problem.network, lr=problem.lr, steps=problem.steps, loss=problem.loss, engine="cpu")
        self._batch, self._autograd = problem.batch, autograd

    def call(self) -> None:
        super().call()
        prepared = self._maml._current().prepared
        assert prepared is not None
        self.core.append(prepared.seconds)
        self.python[-1] -= prepared.seconds

    def step(self) -> None:
        if self._autograd:
            self._maml.meta_loss(self._batch).backward()  # type: ignore[no-untyped-call]
        else:
            self._maml.backward(self._batch)


class _Empty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: tuple[Tensor, tuple[Tensor, ...]], *parameters: Tensor) -> Tensor:
        loss, ctx.gradients = result
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.gradients


class _Nothing(_Way):
    def __init__(self, problem: Problem) -> None:
        super().__init__("an empty autograd.Function, backward", problem.network.parameters())
        self._gradients = tuple(torch.ones_like(parameter) for parameter in self.parameters)
        self._scalar = self.parameters[0].new_zeros(())

    def step(self) -> None:
        result = torch.empty_like(self._scalar), self._gradients
        loss: Tensor = _Empty.apply(result, *self.parameters)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]


def _take_turns(ways: Sequence[_Way], seconds: float, at_least: int) -> None:
    end = time.perf_counter() + seconds
    turns = 0
    while turns < at_least or time.perf_counter() < end:
        for way in ways:
            way.call()
        turns += 1


if __name__ == "__main__":
    main()
