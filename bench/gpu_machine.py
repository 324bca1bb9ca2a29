"""The GPU at hand: what it is, what it can do, and how long a call takes on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import torch

from bench.environment import commit, version

SLOW = 0.5
"""Seconds from which on a call is long enough to be timed by itself, three times."""


def facts() -> dict[str, str]:
    """The GPU, the date, versions, and the commit, with what has changed since."""
    versions = {package: version(package) for package in ("torch", "triton", "jax", "learn2learn")}
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"gpu": torch.cuda.get_device_name(), "date": date, "commit": commit(), **versions}


def peaks() -> dict[str, float]:
    """At the precision in force: products of 8192² matrices, copies of a gibibyte."""
    a, b = (torch.rand(8192, 8192, device="cuda") for _ in range(2))
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    product = statistics.median(by_events(lambda: torch.mm(a, b)))
    copy = statistics.median(by_events(lambda: target.copy_(source)))
    return {"matmul_operations_per_second": 2 * 8192**3 / product, "copy_bytes_per_second": 2 * 2**30 / copy}


def by_events(call: Callable[[], Any], turns: int = 7, seconds: float = 0.4) -> list[float]:
    """Seconds of a call between CUDA events, one mean of each turn; no wait between calls."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def of(calls: int) -> float:
        begin.record()  # type: ignore[no-untyped-call]
        for _ in range(calls):
            call()
        end.record()  # type: ignore[no-untyped-call]
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / calls

    return _in_turns(of, turns, seconds)


def by_clock(call: Callable[[], Any], turns: int = 7, seconds: float = 0.4) -> list[float]:
    """Seconds of a call that returns when it is done."""

    def of(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    return _in_turns(of, turns, seconds)


def _in_turns(of: Callable[[int], float], turns: int, seconds: float) -> list[float]:
    """As many calls a turn as fill it; of slow calls three, after the one that warms up."""
    if of(1) > SLOW:
        return [of(1) for _ in range(3)]
    of(2)
    calls = max(1, min(1000, int(seconds / turns / max(of(1), 1e-6))))
    return [of(calls) for _ in range(turns)]
