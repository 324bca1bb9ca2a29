"""One problem, several contestants: the right answer first, then time, each in turn within one run."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench import rivals
from bench.problem import Problem
from bench.rivals import Step
from fastmaml import MAML

TOLERANCE = 1e-4
"""Largest relative error of a meta-gradient (2-norm, against float64) with which a contestant gets a time."""

OURS = "fastmaml"
"""What a trainer runs: `maml.backward(batch)`."""

OURS_BY_AUTOGRAD = "+ autograd"
"""The same engine by way of `maml.meta_loss(batch).backward()`."""


@dataclass
class Entry:
    """A contestant of one problem.

    Args:
        name: of the contestant.
        step: what is timed; None for one that does not run.
        error: relative error of its meta-gradient; None where there is none.
        obstacle: why it has no time: absent, failed or wrong.
        first_call: seconds of its first call, compilation included.
        turns: median seconds of a call, one of each turn.
    """

    name: str
    step: Step | None = None
    error: float | None = None
    obstacle: str | None = None
    first_call: float | None = None
    turns: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.turns) if self.turns else None


def truth(problem: Problem) -> tuple[Tensor, float]:
    """The meta-gradient [P] in float64, and eager PyTorch's relative error of it in float32."""
    exact = problem.reference().cpu()
    return exact, relative_error(problem.reference(torch.float32).double().cpu(), exact)


def allowed(eager_error: float) -> float:
    """The relative error with which a contestant gets a time.

    Where max-pooling and ReLUs leave some inputs within rounding of a kink, float32 alone decides on which side of it
    the gradient is taken; there it is twice what eager PyTorch makes.
    """
    return max(TOLERANCE, 2 * eager_error)


def enter(
    name: str, problem: Problem, reference: Tensor, tolerance: float = TOLERANCE, limit: float | None = None
) -> Entry:
    """Ours or the rival of that name, tried out."""
    return try_out(name, lambda: _prepare(name, problem), reference, tolerance, limit)


def try_out(
    name: str, prepare: Callable[[], Step], reference: Tensor, tolerance: float, limit: float | None = None
) -> Entry:
    """Builds a contestant, takes its first call within `limit` seconds and compares its answer with the reference [P].

    What a limit interrupts is Python; compilers are C++, and are given up once they return.
    """
    entry = Entry(name)
    try:
        with patience(limit):
            entry.step = prepare()
            start = time.perf_counter()
            _, gradients = entry.step()
            entry.first_call = time.perf_counter() - start
    except rivals.Absent as absence:
        entry.obstacle = f"absent: {absence}"
    except GivenUp as end:
        entry.obstacle = f"given up: {end}"
    except Exception as error:  # a rival's failure is a result, of whatever kind it is
        entry.obstacle = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    else:
        entry.error = relative_error(flat(gradients), reference)
        if not entry.error <= tolerance:
            entry.obstacle = f"wrong: relative error {entry.error:.1e} is above {tolerance:.0e}"
    return entry


def ours(problem: Problem, engine: str = "auto", autograd: bool = False) -> Step:
    """What a user of fastmaml writes."""
    maml = MAML(problem.network, lr=problem.lr, steps=problem.steps, loss=problem.loss, engine=engine)
    parameters = list(problem.network.parameters())

    def step() -> tuple[Tensor, list[Tensor | None]]:
        for parameter in parameters:
            parameter.grad = None
        if autograd:
            loss = maml.meta_loss(problem.batch)
            loss.backward()
        else:
            loss = maml.backward(problem.batch)
        return loss, [parameter.grad for parameter in parameters]

    return step


def _prepare(name: str, problem: Problem) -> Step:
    if name in (OURS, OURS_BY_AUTOGRAD):
        return ours(problem, autograd=name == OURS_BY_AUTOGRAD)
    return rivals.prepare(name, problem)


def take_turns(entries: Sequence[Entry], turns: int, turn_seconds: float) -> None:
    """Times every entry without an obstacle, one after the other, `turns` times, after one call of each to warm up."""
    for turn in range(-1, turns):
        for entry in entries:
            if entry.step is None or entry.obstacle is not None:
                continue
            if turn < 0:
                entry.step()
            else:
                entry.turns.append(median_time(entry.step, turn_seconds))


def median_time(call: Callable[[], Any], seconds: float, at_least: int = 3) -> float:
    """Median seconds of a call, repeated for `seconds` after two calls that wake threads and fill caches.

    A call that takes longer than `seconds` by itself is made once, and counts.
    """
    once = seconds_of(call)
    if once > seconds > 0:
        return once
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < at_least or time.perf_counter() < end:
        times.append(seconds_of(call))
    return statistics.median(times)


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class GivenUp(BaseException):
    """Patience is at an end. No Exception, which compilers of Python catch and carry on."""


@contextmanager
def patience(seconds: float | None) -> Iterator[None]:
    """Raises GivenUp in what runs inside once the seconds are over (None: never); main thread only."""

    def give_up(*_: object) -> None:
        raise GivenUp(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sgemm(size: int = 2048) -> Entry:
    """torch's float32 product of two square matrices, as an entry to be timed among the others."""
    a, b, c = (torch.rand(size, size) for _ in range(3))

    def step() -> tuple[Any, Sequence[Any]]:
        torch.mm(a, b, out=c)
        return c, ()

    return Entry(f"sgemm {size}", step)


def flat(gradients: Sequence[Any]) -> Tensor:
    """Gradients of any framework as one float64 vector [P]."""
    return torch.cat(
        [torch.as_tensor(_plain(gradient), dtype=torch.float64).cpu().reshape(-1) for gradient in gradients]
    )


def relative_error(gradient: Tensor, reference: Tensor) -> float:
    return ((gradient - reference).norm() / reference.norm()).item()


def _plain(gradient: Any) -> Any:
    import numpy as np

    return gradient.detach() if isinstance(gradient, Tensor) else np.array(gradient)
