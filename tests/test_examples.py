"""The examples run, and learn."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example_runs(name, capsys):
    runpy.run_path(str(EXAMPLES / name))["main"](iterations=20)
    assert capsys.readouterr().out


def test_own_tasks_are_learned(capsys):
    runpy.run_path(str(EXAMPLES / "own_tasks.py"))["main"](iterations=600)
    rows = {
        line.split()[0]: [float(word) for word in line.split()[1:]]
        for line in capsys.readouterr().out.splitlines()[-2:]
    }
    assert rows["after"][3] < 0.5 * rows["before"][3]
    assert rows["after"][3] < 0.5 * rows["after"][0]


def test_own_environment_is_learned(capsys):
    runpy.run_path(str(EXAMPLES / "own_environment.py"))["main"](iterations=25)
    rows = {
        line.split()[0]: [float(word) for word in line.split()[1:]]
        for line in capsys.readouterr().out.splitlines()[-2:]
    }
    before, after = rows["before"], rows["after"]
    assert after[1] - after[0] > 1 + 2 * (before[1] - before[0])  # one step gains far more than it did
    assert after[2] > before[2] + 2
