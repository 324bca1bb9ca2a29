"""How often a call is timed: as often as fills a budget of seconds, and slow calls less often."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.contest import seconds_of

WARM_UP = 3
"""Calls before the first that counts: threads wake, caches fill, compilers have seen shapes and memory twice."""

STRETCH = 15
"""Budgets that the least number of rounds may take, before it is cut."""


def warmed_up(call: Callable[[], Any], budget: float) -> float:
    """Seconds of the last of WARM_UP calls, or of the call with which the budget is spent."""
    end = time.perf_counter() + budget
    for _ in range(WARM_UP):
        seconds = seconds_of(call)
        if time.perf_counter() > end:
            break
    return seconds


def rounds(seconds: float, budget: float, least: int) -> int:
    """How many calls of so many seconds are timed.

    They fill the budget. There are at least `least`, unless those take more than STRETCH budgets: then there are as
    many as fit into these, and one at any rate.
    """
    return max(int(budget / seconds), min(least, int(STRETCH * budget / seconds)), 1)
