"""How often a call is timed."""

from __future__ import annotations

import time

import pytest

from bench.rounds import rounds, warmed_up


@pytest.mark.parametrize(
    ("seconds", "least", "expected"),
    [
        (0.25e-3, 5, 4000),  # the budget is filled
        (0.5, 5, 5),  # the least number counts
        (4.0, 5, 3),  # which is cut to fifteen budgets
        (15.0, 5, 1),
        (0.5, 20, 20),
    ],
)
def test_rounds_of_calls_short_and_long(seconds, least, expected):
    assert rounds(seconds, budget=1.0, least=least) == expected


def test_a_short_call_is_warmed_up_by_three():
    calls: list[int] = []
    assert 0 < warmed_up(lambda: calls.append(1), budget=60) < 60
    assert len(calls) == 3


def test_a_call_that_spends_the_budget_is_warmed_up_by_one():
    calls: list[int] = []
    assert warmed_up(lambda: (calls.append(1), time.sleep(2e-3)), budget=1e-3) >= 2e-3
    assert len(calls) == 1
