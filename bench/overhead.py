"""What Python costs: meta_loss and backward together, less the one call into the compiled core inside them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from bench.contest import ours, seconds_of
from bench.problem import Problem
from fastmaml.engines import cpu


def python_overhead(problem: Problem, seconds: float = 2.0, at_least: int = 5) -> tuple[float, float]:
    """Median seconds of a call of (Python, the core), the `cpu` engine forced, over calls that take so long.

    Both are taken in the same calls: the core's entry is replaced by one that looks at the clock around it.
    """
    spent: list[float] = []
    step = ours(problem, engine="cpu")
    with mock.patch.object(cpu, "_verb", _timed(cpu._verb, spent)):
        _repeat(step, seconds / 10, 1)
        spent.clear()
        totals = _repeat(step, seconds, at_least)
    beyond = [total - inside for total, inside in zip(totals, spent, strict=True)]
    return statistics.median(beyond), statistics.median(spent)


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


def _repeat(call: Callable[[], Any], seconds: float, at_least: int) -> list[float]:
    """Seconds of each call."""
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < at_least or time.perf_counter() < end:
        times.append(seconds_of(call))
    return times
