"""Fields of a checkpoint are what will read them, or are refused by name."""

from dataclasses import dataclass

import pytest
import torch

from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runs.saved import LARGEST, Saved, counters


@dataclass
class Counted:
    iteration: int = 0
    seconds: float = 0.0
    loss: float | None = None
    best: int | None = None


def refused(pattern):
    return pytest.raises(CheckpointError, match=f"^folder/file: {pattern}")


def saved(value, field="a"):
    return Saved("folder/file", value, field)


def test_counters_come_back_as_they_were():
    whole = {"iteration": LARGEST, "seconds": 1, "loss": float("inf"), "best": None}
    assert counters(saved(whole), Counted) == Counted(LARGEST, 1.0, float("inf"), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iteration": -1}, "'a/iteration' is -1; allowed is a whole number from 0"),
        ({"iteration": 1.0}, r"'a/iteration' is 1\.0"),
        ({"iteration": None}, "'a/iteration' is absent or None"),
        ({"iteration": 10**30}, "'a/iteration' is 1000.*; allowed is a whole number from 0 to 2"),
        ({"seconds": float("inf")}, "'a/seconds' is inf; allowed is a finite number"),
        ({"seconds": -1.0}, r"'a/seconds' is -1\.0"),
        ({"loss": "x" * 99}, r"'a/loss' is 'x{39}… \(101 characters\); allowed is a number"),
        ({"loss": torch.zeros(2)}, r"'a/loss' is float32 \[2\]"),
        ({"best": False}, "'a/best' is False"),
        ({"odd": 1}, r"'a' has the unknown \['odd'\]; allowed are \['best', 'iteration', 'loss', 'seconds'\]"),
    ],
)
def test_counters_of_another_kind_are_named(change, message):
    with refused(message):
        counters(saved({"iteration": 1, "seconds": 0.0, "loss": 1.0, "best": 1} | change), Counted)


def test_a_field_is_named_by_the_way_to_it():
    nest = Saved("folder/file", {"a": {0: [1, {"b": None}]}})
    assert [item.field for item in nest.entry("a").entry(0).items()] == ["a/0/0", "a/0/1"]
    with refused("'a/0/1/b' is absent or None; allowed is a value"):
        [*nest.entry("a").entry(0).items()][1].entry("b")
    with refused("'a/0' is list; allowed is a dict"):
        nest.entry("a").entry(0).entry("b")


@pytest.mark.parametrize(
    ("value", "own"),
    [
        (1, 2.5),
        (None, True),
        ([1, 2.0], (3, 4)),
        ([1, 2], []),
        ({"x": 1, "y": "any"}, {"x": 2}),
        ("b", "a"),
        (3, None),
        (float("inf"), float("-inf")),
        (torch.tensor(0.1), torch.tensor(0.2)),
        (0.1, torch.tensor([0.2])),
    ],
    ids=str,
)
def test_what_is_alike_passes(value, own):
    saved(value).alike(own)


@pytest.mark.parametrize(
    ("value", "own"),
    [
        ("1", 2),
        (True, 2),
        (float("nan"), 2.0),
        (1e300, 2.0),
        (float("inf"), 2.0),
        (1, False),
        ([1], [1, 2]),
        (["x"], [1]),
        ({"x": "1"}, {"x": 2}),
        (1, "a"),
        (torch.zeros(()), 1.0),
        (torch.zeros(()), None),
        (torch.zeros(2), torch.zeros(())),
        (torch.zeros((), dtype=torch.int64), torch.zeros(())),
    ],
    ids=str,
)
def test_what_is_of_another_kind_is_refused(value, own):
    with refused("'a.*' is .*; allowed is "):
        saved(value).alike(own)
