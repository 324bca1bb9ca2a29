"""What is counted as Python's share."""

from __future__ import annotations

import pytest

pytest.importorskip("fastmaml._core", reason="the compiled core is not installed")

from bench.overhead import overheads
from bench.problem import sinusoid


def test_what_python_costs_is_told_of_both_ways_and_of_autograd_alone() -> None:
    found = overheads(sinusoid(1, tasks=2, points=3), seconds=0, at_least=3)
    assert [each.name for each in found] == [
        "maml.backward",
        "meta_loss, backward",
        "an empty autograd.Function, backward",
    ]
    assert all(each.python > 0 for each in found)
    assert [each.core is None for each in found] == [False, False, True]
