"""pytest bench: every engine, and every rival that is installed, on every case, by pytest-benchmark.

`python -m bench.cpu` is the comparison to quote: it lets the contestants take turns, which pytest-benchmark does not.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import rivals
from bench.contest import allowed, flat, ours, relative_error, truth
from bench.problem import CASES, Problem
from bench.rivals import Step
from fastmaml import engines


@pytest.fixture(scope="module", params=CASES)
def problem(request: pytest.FixtureRequest) -> Problem:
    return CASES[request.param]()


@pytest.mark.parametrize("engine", [name for name in engines.available() if name != "gpu"])
def test_engine(problem: Problem, engine: str, benchmark: BenchmarkFixture) -> None:
    benchmark.group = problem.name
    _measure(ours(problem, engine), problem, benchmark)


@pytest.mark.parametrize("name", rivals.NAMES)
def test_rival(problem: Problem, name: str, benchmark: BenchmarkFixture) -> None:
    benchmark.group = problem.name
    try:
        step = rivals.prepare(name, problem)
    except rivals.Absent as absence:
        pytest.skip(str(absence))
    _measure(step, problem, benchmark)


def _measure(step: Step, problem: Problem, benchmark: BenchmarkFixture) -> None:
    reference, eager_error = truth(problem)
    assert relative_error(flat(step()[1]), reference) <= allowed(eager_error)
    benchmark.pedantic(step, rounds=10, warmup_rounds=1)
