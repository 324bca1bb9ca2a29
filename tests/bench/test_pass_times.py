"""Times, operations and bytes of passes: what is done is what is necessary, and every pass is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("fastmaml._core", reason="the compiled core is not installed")

from bench import pass_times
from bench.layer_costs import bytes_moved, joined, name_of, operations
from bench.pass_times import PASSES, Profile, measure
from bench.problem import CASES, Problem, images
from fastmaml import _core

CONV = {
    **{"kind": "conv", "inputs": 3, "outputs": 20, "image": True, "relu": False, "pool": False},
    **{"in_size": (4, 4), "out_size": (4, 4), "kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)},
}


def small() -> Problem:
    torch.manual_seed(0)
    block = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)]
    block += [nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()]
    network = nn.Sequential(*block, nn.Flatten(), nn.Linear(16, 2))
    return images("small", network, (2, 8, 8), tasks=2, shots=2, queries=3, steps=1, ways=2)


def profile_of(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setitem(CASES, "small", lambda: problem)
    return measure("small", turns=1, turn_seconds=0)


def test_what_one_step_does_is_what_is_necessary(monkeypatch):
    profile = profile_of(small(), monkeypatch)
    assert sum(row.operations for row in profile.rows) == profile.necessary
    assert {row.pass_name for row in profile.rows} == set(PASSES)
    assert all(row.seconds > 0 and row.calls > 0 for row in profile.rows)
    text = "\n".join(profile.lines())
    assert "0 conv + batch norm + relu + pool 2→4 8×8" in text
    assert "3 batch norm + relu 4→4 2×2" in text
    assert "operations done / necessary: 1.000" in text


def test_forward_and_backward_are_taken_again_where_activations_are_not_kept(monkeypatch):
    profile = profile_of(replace(small(), steps=3), monkeypatch)
    calls = {row.pass_name: row.calls for row in profile.rows if row.layer.startswith("0 ")}
    assert calls["tangent forward"] == 2 * 3  # tasks × steps
    assert calls["gradient"] == 2 * (3 + 1)
    assert calls["forward"] == 2 * (3 + 1 + 2)
    assert sum(row.operations for row in profile.rows) > profile.necessary


def test_operations_and_bytes_by_hand():
    met = 10 * 10  # taps inside along one axis: 2 + 3 + 3 + 2
    assert operations("forward", CONV, False, samples=5) == 2 * met * 3 * 20 * 5
    assert operations("tangent backward", CONV, False, samples=5) == 4 * met * 3 * 20 * 5
    assert operations("tangent gradient", CONV, True, samples=5) == 2 * met * 3 * 20 * 5
    assert operations("sums", CONV, False, samples=5) == 0
    weights = 3 * 9 * 32  # outputs padded to 64 bytes
    assert bytes_moved("forward", CONV, False, calls=2, samples=5) == 4 * (5 * 16 * (16 + 32) + 2 * weights)
    assert bytes_moved("forward", CONV, True, calls=2, samples=5) == 4 * (5 * 16 * (3 + 32) + 2 * weights)


def test_a_convolution_and_the_norm_after_it_are_one_layer_of_the_size_they_give():
    norm = {"kind": "batch_norm", "relu": True, "pool": True, "out_size": (2, 2)}
    one = joined([{**CONV, "stem": True}, norm])[0]
    assert name_of(one) == "conv + batch norm + relu + pool 3→20 4×4"
    data, output, weights = 16 * 3, 4 * 32, 3 * 9 * 32
    assert bytes_moved("forward", one, True, calls=1, samples=5) == 4 * (5 * (data + 2 * output) + weights)
    assert operations("forward", one, True, samples=5) == operations("forward", CONV, True, samples=5)
    assert joined([{**CONV, "stem": False}, norm])[0] == {**CONV, "stem": False}


def test_the_clock_is_off_unless_it_is_wanted(monkeypatch):
    profile_of(small(), monkeypatch)
    before = _core.profile()
    pass_times.ours(small(), "cpu")()
    assert _core.profile() == before


def test_networks_without_images_are_refused():
    with pytest.raises(ValueError, match="case: 'sinusoid-1' has no images"):
        measure("sinusoid-1", turns=1, turn_seconds=0)
