"""The measurement of steps a second."""

from __future__ import annotations

import dataclasses
import re

import pytest

from bench import simulation
from fastmaml.rl import Navigation2D

QUICK = ["--rounds", "1", "--seconds", "0.01", "--tasks", "2", "--episodes", "2"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_every_environment_is_held_to_gymnasiums_and_timed_beside_it(capsys):
    simulation.main(QUICK)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("fastmaml/")}
    assert len(lines) == 3
    for line in lines.values():
        rates = [float(number.replace(",", "")) for number in re.findall(r"([\d,]+) \(\d", line)]
        assert len(rates) == 4
        assert min(rates) > 0
        assert re.search(r"\(1\.00×\).*largest difference \d", line)


class Wrong(Navigation2D):
    def step(self, actions):
        observations, rewards, ended = super().step(actions)
        return observations, rewards * 1.001, ended


def test_a_wrong_environment_gets_no_time(capsys, monkeypatch):
    case = dataclasses.replace(simulation.CASES[0], batched=lambda threads: Wrong())
    monkeypatch.setattr(simulation, "CASES", (case,))
    simulation.main(QUICK)
    assert re.search(r"differs from the registered environment by \d.*: not timed$", capsys.readouterr().out.strip())


def test_only_steps_of_episodes_that_go_on_are_counted():
    options = simulation._parser().parse_args(["--tasks", "3", "--episodes", "4", "--threads", "1"])
    ant = simulation.CASES[2]
    counts = [count for count, _ in zip(simulation.batched_steps(ant, options), range(150), strict=False)]
    assert max(counts) == 12
    assert min(counts) < 12
