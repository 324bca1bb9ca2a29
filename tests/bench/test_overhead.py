"""What is counted as Python's share."""

from __future__ import annotations

import pytest

pytest.importorskip("fastmaml._core", reason="the compiled core is not installed")

from bench import overhead
from bench.overhead import overheads
from bench.problem import sinusoid


def test_what_python_costs_is_told_of_both_ways_and_of_autograd_alone() -> None:
    found = overheads(sinusoid(1, tasks=2, points=3), seconds=0, at_least=3)
    assert [each.name for each in found] == [
        "maml.backward",
        "meta_loss, backward",
        "an empty autograd.Function, backward",
        "meta_loss, backward, beyond the empty one",
    ]
    assert all(each.python > 0 for each in found[:3])
    assert [each.core is None for each in found] == [False, False, True, True]


def test_it_is_printed_of_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main(["--case", "sinusoid-1", "--seconds", "0"])
    name, *lines = capsys.readouterr().out.splitlines()
    assert name == "sinusoid-1"
    assert [line.split(":")[0].strip() for line in lines][:2] == ["maml.backward", "meta_loss, backward"]
