"""The measurement of peak memory."""

from __future__ import annotations

import re
import sys

import pytest

from bench import memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_growth_is_printed_beside_parameter_copies(capsys):
    memory.main(["--network", "sinusoid", "--engine", "reference", "--tasks", "2", "--steps", "101"])
    few, many, growth, copies = (float(number) for number in re.findall(r"(-?\d+\.\d)$", capsys.readouterr().out, re.M))
    assert growth == pytest.approx(many - few, abs=0.11)
    assert copies == round(100 * 2 * 1761 * 4 / 2**20, 1)
    assert few > 50  # a process that has loaded torch
