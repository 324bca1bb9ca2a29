"""pytest bench: every engine, and every rival that is installed, on every case, by pytest-benchmark.

`python -m bench.cpu` is the comparison to quote: it lets the contestants take turns, which pytest-benchmark does not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from bench.contest import Entry, allowed, truth, try_out
from bench.contestants import Contestant, Ours, chosen
from bench.options import NAMED
from bench.problem import CASES, Problem
from bench.rivals import Absent
from bench.rounds import rounds, warmed_up

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if NAMED not in metafunc.config.stash:
        pytest.skip("is measured where it is named: pytest bench")
    option = metafunc.config.getoption
    cases = list(dict.fromkeys(option("case") or CASES))
    contestants = chosen(option("engine"), option("rival"))
    metafunc.parametrize("problem", cases, indirect=True, scope="module")
    metafunc.parametrize("contestant", contestants, ids=[contestant.name for contestant in contestants])


@pytest.fixture(scope="module")
def problem(request: pytest.FixtureRequest) -> Problem:
    return CASES[request.param]()


def test_step(
    problem: Problem, contestant: Contestant, benchmark: BenchmarkFixture, pytestconfig: pytest.Config
) -> None:
    benchmark.group = problem.name
    entry = _tried_out(problem, contestant, pytestconfig.getoption("patience"))
    benchmark.extra_info.update(relative_error=entry.error, first_call_seconds=entry.first_call)
    budget, least = (pytestconfig.getoption(f"benchmark_{name}") for name in ("max_time", "min_rounds"))
    assert entry.step is not None
    seconds = warmed_up(entry.step, float(budget)) if benchmark.enabled else 1.0
    benchmark.pedantic(entry.step, rounds=rounds(seconds, float(budget), least))


def _tried_out(problem: Problem, contestant: Contestant, patience: float) -> Entry:
    """Fails what is ours and wrong or broken; skips what is absent or given up, and rivals of whatever obstacle."""
    who = f"{contestant.name} on {problem.name}"
    try:
        posed, reference, tolerance = _posed(problem, contestant.device())
    except Absent as absence:
        pytest.skip(f"{who}: absent: {absence}")
    entry = try_out(contestant.name, lambda: contestant.prepare(posed), reference, tolerance, patience)
    if entry.obstacle is None:
        return entry
    if isinstance(contestant, Ours) and not entry.obstacle.startswith(("absent", "given up")):
        pytest.fail(f"{who}: {entry.obstacle}", pytrace=False)
    pytest.skip(f"{who}: {entry.obstacle}")


@lru_cache(maxsize=2)  # a case on the CPU and on the GPU
def _posed(problem: Problem, device: torch.device) -> tuple[Problem, Tensor, float]:
    """The problem on the device, its meta-gradient [P], and the relative error with which one gets a time."""
    posed = problem.on(device)
    reference, eager_error = truth(posed)
    return posed, reference, allowed(eager_error)
