"""Who gets a time, and what is printed of the others."""

from __future__ import annotations

import json
import signal
import time

import pytest
import torch

from bench import comparison, contest, rivals
from bench.contest import Entry, enter, median_time, take_turns
from bench.problem import Problem, sinusoid
from bench.report import CaseReport, Overhead
from bench.rivals import Absent, Step


@pytest.fixture
def problem() -> Problem:
    return sinusoid(1, tasks=2, points=3)


def entered(problem: Problem, monkeypatch: pytest.MonkeyPatch, prepare: object) -> Entry:
    monkeypatch.setattr(rivals, "prepare", prepare)
    entry = enter("loop", problem, problem.reference())
    take_turns([entry], turns=2, turn_seconds=0)
    return entry


def test_a_right_answer_gets_a_time(problem):
    entry = enter("loop", problem, problem.reference())
    take_turns([entry], turns=2, turn_seconds=0)
    assert entry.obstacle is None
    assert len(entry.turns) == 2
    assert entry.seconds > 0


def test_a_wrong_answer_gets_no_time(problem, monkeypatch):
    right = rivals.prepare("loop", problem)

    def wrong(name: str, problem: Problem) -> Step:
        return lambda: (right()[0], [gradient * 1.001 for gradient in right()[1]])

    entry = entered(problem, monkeypatch, wrong)
    assert entry.error == pytest.approx(1e-3, rel=1e-2)
    assert entry.obstacle == "wrong: relative error 1.0e-03 is above 1e-04"
    assert entry.turns == []


def test_nan_is_wrong(problem, monkeypatch):
    gradients = [torch.full_like(parameter, torch.nan) for parameter in problem.network.parameters()]
    entry = entered(problem, monkeypatch, lambda *_: lambda: (0, gradients))
    assert entry.obstacle.startswith("wrong: relative error nan")


def test_an_absent_and_a_failing_rival_are_named(problem, monkeypatch):
    def absent(*_: object) -> Step:
        raise Absent("get it there")

    def failing(*_: object) -> Step:
        raise RuntimeError("no kernel\nand much more")

    assert entered(problem, monkeypatch, absent).obstacle == "absent: get it there"
    assert entered(problem, monkeypatch, failing).obstacle == "failed: RuntimeError: no kernel"


def test_turns_are_taken_in_turn():
    said: list[str] = []
    entries = [Entry(name, step=lambda name=name: (said.append(name), ())) for name in "ab"]
    take_turns(entries, turns=2, turn_seconds=0)
    runs = [name for i, name in enumerate(said) if i == 0 or said[i - 1] != name]
    assert runs == ["a", "b"] * 3  # of which the first is a warm-up
    assert [len(entry.turns) for entry in entries] == [2, 2]


def test_median_time_warms_up_first():
    calls: list[int] = []
    median_time(lambda: calls.append(1), seconds=0, at_least=5)
    assert len(calls) == 7


def test_a_call_longer_than_its_turn_is_made_once():
    calls: list[int] = []
    assert median_time(lambda: (calls.append(1), time.sleep(2e-3)), seconds=1e-3) >= 2e-3
    assert len(calls) == 1


def test_a_rival_that_never_ends_is_given_up(problem, monkeypatch):
    monkeypatch.setattr(rivals, "prepare", lambda *_: lambda: time.sleep(60))
    entry = enter("loop", problem, problem.reference(), limit=0.05)
    assert entry.obstacle == "given up: not done after 0.05 s"
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_report_counts_shares_and_ratios():
    mine = Entry(contest.OURS, error=1e-7, first_call=0.1, turns=[1.0, 2.0, 9.0])
    theirs = Entry("loop", error=1e-7, first_call=0.1, turns=[20.0, 20.0, 80.0])
    wrong = Entry("higher", obstacle="wrong: far off")
    report = CaseReport(
        "case",
        [mine, theirs, wrong],
        operations=40,
        product=Entry("sgemm", turns=[2.0, 2.0, 3.0]),
        product_operations=200,
        overheads=[Overhead("ours", 2e-5, 1e-4), Overhead("torch", 1e-5, None)],
    )
    assert report.times_ours(theirs) == 10  # of 20, 10 and 80/9
    assert report.share(mine) == pytest.approx(0.2)  # of 0.4, 0.2 and 0.07
    assert [report.times_ours(wrong), report.share(wrong)] == [None, None]
    text = "\n".join(report.lines())
    assert "higher         wrong: far off" in text
    assert "ours: Python 20.0 µs a call, the core 100.0 µs" in text
    assert "torch: Python 10.0 µs a call\n" in text + "\n"


def test_the_whole_comparison(tmp_path, capsys):
    path = tmp_path / "result.json"
    threads = torch.get_num_threads()
    arguments = ["--case", "sinusoid-1", "--rivals", "torch_func", "--turns", "1", "--turn-seconds", "0"]
    try:
        comparison.main([*arguments, "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    assert "sinusoid-1: 9.96 million necessary operations" in capsys.readouterr().out
    result = json.loads(path.read_text())
    assert [entry["name"] for entry in result["cases"][0]["contestants"]] == ["fastmaml", "+ autograd", "torch_func"]
    assert all(entry["relative_error"] < 1e-5 for entry in result["cases"][0]["contestants"])
