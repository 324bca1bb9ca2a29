"""Who is measured by pytest, where, and what becomes of those who cannot be."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from bench import contestants, rivals, test_engines
from bench.contest import flat, relative_error
from bench.contestants import Ours, Rival, chosen, synchronised
from bench.problem import Problem, sinusoid
from bench.rivals import Absent
from fastmaml import engines
from fastmaml.engines.functional import FunctionalEngine

CPU = torch.device("cpu")


@pytest.fixture
def problem() -> Problem:
    return sinusoid(1, tasks=2, points=3)


def test_everybody_is_chosen_unless_somebody_is_named():
    everybody = [contestant.name for contestant in chosen(None, None)]
    assert everybody == [f"{name}{way}" for name in engines.NAMES for way in ("", "-autograd")] + list(rivals.NAMES)
    assert chosen(["cpu", "cpu"], None) == [Ours("cpu"), Ours("cpu", autograd=True)]
    assert chosen(None, ["loop", "higher"]) == [Rival("loop"), Rival("higher")]
    assert [contestant.name for contestant in chosen(["cpu"], ["loop"])] == ["cpu", "cpu-autograd", "loop"]


@pytest.mark.parametrize("autograd", [False, True])
def test_both_ways_of_calling_an_engine_take_the_meta_gradient(problem, autograd):
    _, gradients = Ours("functional", autograd).prepare(problem)()
    assert relative_error(flat(gradients), problem.reference()) <= 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_without_a_gpu_its_engine_is_absent():
    with pytest.raises(Absent, match=r"'gpu'.* no GPU"):
        Ours("gpu").device()
    assert Ours("reference").device() == Rival("loop").device() == CPU


def test_an_engine_that_does_not_run_the_problem_is_absent(problem, monkeypatch):
    monkeypatch.setattr(FunctionalEngine, "refusal", lambda *_: "not this one")
    with pytest.raises(Absent, match="not this one"):
        Ours("functional").prepare(problem)


def test_a_step_on_a_gpu_ends_when_the_gpu_is_done(monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(contestants.torch.cuda, "synchronize", lambda: events.append("done"))
    assert synchronised(lambda: (events.append("called"), ()))() == (None, ())
    assert events == ["called", "done"]


def wrong(problem: Problem) -> rivals.Step:
    return lambda: (0, [torch.ones_like(parameter) for parameter in problem.network.parameters()])


def broken(problem: Problem) -> rivals.Step:
    raise RuntimeError("no kernel")


@pytest.mark.parametrize(("prepare", "obstacle"), [(wrong, "wrong: relative error"), (broken, "failed: RuntimeError")])
def test_a_wrong_or_broken_engine_fails_and_a_rival_is_passed_over(problem, monkeypatch, prepare, obstacle):
    for kind in (Ours, Rival):
        monkeypatch.setattr(kind, "prepare", lambda _, posed: prepare(posed))
    with pytest.raises(pytest.fail.Exception, match=f"functional on sinusoid-1: {obstacle}"):
        test_engines._tried_out(problem, Ours("functional"), patience=60)
    with pytest.raises(pytest.skip.Exception, match=f"loop on sinusoid-1: {obstacle}"):
        test_engines._tried_out(problem, Rival("loop"), patience=60)


def test_who_is_absent_or_out_of_patience_is_passed_over(problem, monkeypatch):
    def absent(*_: object) -> torch.device:
        raise Absent("get it there")

    monkeypatch.setattr(Ours, "prepare", lambda *_: lambda: time.sleep(60))
    with pytest.raises(pytest.skip.Exception, match="given up: not done after"):
        test_engines._tried_out(problem, Ours("functional"), patience=0.05)
    monkeypatch.setattr(Ours, "device", absent)
    with pytest.raises(pytest.skip.Exception, match="functional on sinusoid-1: absent: get it there"):
        test_engines._tried_out(problem, Ours("functional"), patience=60)


def test_a_folder_that_was_not_named_is_passed_over():
    with pytest.raises(pytest.skip.Exception, match="measured where it is named: pytest bench"):
        test_engines.pytest_generate_tests(SimpleNamespace(config=SimpleNamespace(stash=pytest.Stash())))
