"""The progress bar: what it says, and how often."""

import io

import pytest

from fastmaml.runs import progress
from fastmaml.runs.progress import Progress
from tests.small_runs import Blobs, classifier, trainer


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "perf_counter", lambda: Clock.now)
    return Clock


def test_says_loss_accuracy_rate_and_time_left(clock):
    file = Terminal()
    bar = Progress(total=100, start=0, meta_batch=25, file=file)
    clock.now += 2
    bar.note("validation 97.0%")
    bar.show(50, 0.25, 0.5)
    bar.close()
    last = file.getvalue().split("\r")[-1]
    assert "50/100" in last
    assert "loss 0.25, accuracy 50.0%, 625 tasks/s, validation 97.0%" in last  # 25 · 50 tasks in 2 s
    assert "<00:" in last


def test_regression_shows_no_accuracy(clock):
    file = Terminal()
    bar = Progress(total=100, start=0, meta_batch=25, file=file)
    clock.now += 1
    bar.show(1, 0.25, None)
    assert "accuracy" not in file.getvalue()
    bar.close()


@pytest.mark.parametrize(("terminal", "redraws"), [(True, 10), (False, 0)])
def test_is_redrawn_ten_times_a_second_at_most(clock, terminal, redraws):
    file = Terminal() if terminal else io.StringIO()
    bar = Progress(total=100_000, start=0, meta_batch=25, file=file)
    first = file.getvalue().count("\r")
    for iteration in range(1, 8193):
        clock.now += 2**-13  # exact, and one second in all
        bar.show(iteration, 1.0, None)
    assert file.getvalue().count("\r") - first == redraws - (redraws > 0)  # 0.1 s is no multiple of 2^-13
    bar.close()


def test_smooths_the_loss(clock):
    file = Terminal()
    bar = Progress(total=1000, start=0, meta_batch=25, file=file)
    for iteration in range(500):
        bar.show(iteration, iteration % 2, None)
    bar.draw(500)
    shown = float(file.getvalue().rpartition("loss ")[2].split(",")[0].rstrip("]\n"))
    assert abs(shown - 0.5) < 0.02
    bar.close()


def test_a_resumed_run_starts_where_it_was(clock):
    file = Terminal()
    bar = Progress(total=1000, start=900, meta_batch=1, file=file)
    clock.now += 1
    bar.show(910, 1.0, None)
    assert "910/1000" in file.getvalue()
    assert "10 tasks/s" in file.getvalue()
    bar.close()


def test_hidden_it_draws_nothing(capfd):
    bar = Progress(total=10, start=0, meta_batch=1, shown=False)
    bar.show(1, 1.0, None)
    bar.draw(1)
    bar.close()
    assert capfd.readouterr() == ("", "")


def test_a_run_draws_its_end(capsys):
    trainer(classifier(), Blobs(), progress=True).run()
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert "100%" in last
    assert "12/12" in last
    assert "accuracy" in last
