"""CSV and TensorBoard logs continue after a resume without missing or repeated rows."""

import os
import subprocess
import sys

import pytest
import torch

from fastmaml.evaluation import Evaluation
from fastmaml.runs import logs
from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runs.logs import CsvLog, RunLog
from tests.small_runs import ROOT

COLUMNS = ("iteration", "loss", "accuracy")


def written(path, iterations, after=0):
    log = CsvLog(path, COLUMNS, after)
    for iteration in iterations:
        log.write({"iteration": iteration, "loss": iteration / 3, "accuracy": None})
    log.sync()
    log.close()
    return path.read_text()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train.csv"


def test_a_row_holds_every_digit(path):
    assert written(path, [1]) == "iteration,loss,accuracy\n1,0.3333333333333333,\n"


def test_rows_are_on_file_as_soon_as_they_are_written(path):
    log = CsvLog(path, COLUMNS)
    log.write({"iteration": 1, "loss": 0.5})
    assert path.read_text().endswith("\n1,0.5,\n")
    log.close()


@pytest.mark.parametrize("after", range(7))
def test_resuming_gives_the_file_of_an_uninterrupted_run(path, tmp_path, after):
    straight = written(tmp_path / "straight.csv", [2, 4, 6, 8])
    written(path, [2, 4, 6])
    assert written(path, [i for i in (2, 4, 6, 8) if i > after], after) == straight


def test_a_file_cut_off_anywhere_is_continued(path, tmp_path):
    straight = written(tmp_path / "straight.csv", [1, 2, 3])
    for length in range(len(straight)):
        path.write_text(straight[:length])
        kept = max(straight[:length].count("\n") - 1, 0)  # whole rows
        assert written(path, range(kept + 1, 4), after=kept) == straight


def test_a_file_with_other_columns_is_left_alone(path):
    path.write_text("iteration,reward\n1,2\n")
    with pytest.raises(
        CheckpointError, match=r"train\.csv: has other columns than \('iteration', 'loss', 'accuracy'\)"
    ):
        CsvLog(path, COLUMNS)
    assert path.read_text() == "iteration,reward\n1,2\n"


DAMAGE = {
    "5,000 digits": b"9" * 5000 + b",1,\n",
    "not UTF-8": b"2,\xff\xfe,\n",
    "zeros": b"\0" * 40 + b"\n",
    "columns": b"2,1\n",
    "negative": b"-2,1,\n",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_between_rows_is_named_and_left_alone(path, kind):
    written(path, [1, 2, 3])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = DAMAGE[kind]
    path.write_bytes(b"".join(lines))
    with pytest.raises(
        CheckpointError, match=r"train\.csv: line 3 is b'.*allowed are rows of 3 fields.*up to 3\. Mend"
    ):
        CsvLog(path, COLUMNS, after=3)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_a_crash_left_behind_the_last_row_is_cut_off(path, tmp_path, kind):
    straight = written(tmp_path / "straight.csv", [1, 2, 3])
    written(path, [1, 2])
    path.write_bytes(path.read_bytes() + DAMAGE[kind])
    assert written(path, [3], after=2) == straight


def test_a_log_that_is_no_file_is_not_waited_for(path):
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"train\.csv: is no file"):
        CsvLog(path, COLUMNS)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None, 0, validation=True, tensorboard=True)
    log.train({"iteration": 1, "loss": 1.0})
    log.sync()
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_validation_has_a_row_for_each_number_of_steps(tmp_path):
    log = RunLog(tmp_path, 0, validation=True, tensorboard=False)
    log.validation(5, Evaluation(torch.tensor([[1.0, 3.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])).rows())
    log.close()
    lines = (tmp_path / "validation.csv").read_text().splitlines()
    assert lines[0] == "iteration,steps,loss,loss_ci95,accuracy,accuracy_ci95"
    assert lines[1].startswith("5,0,2.0,1.38")  # 1.96 · 1 / √2
    assert lines[2] == "5,1,0.5,0.0,1.0,0.0"


def tensorboard_run(folder, iterations, after):
    log = RunLog(folder, after, validation=False, tensorboard=True)
    for iteration in iterations:
        log.train({"iteration": iteration, "loss": float(iteration), "accuracy": None, "lr": 0.1})
    log.sync()
    log.close()


def test_tensorboard_hides_what_a_resumed_run_repeats(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tensorboard_run(tmp_path, [1, 2, 3], after=0)
    tensorboard_run(tmp_path, [3, 4], after=2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(i, i) for i in (1, 2, 3, 4)]
    assert events.Tags()["scalars"] == ["train/loss", "train/lr"]


def test_tensorboard_where_it_is_not_installed_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tensorboard=True needs .* pip install tensorboard"):
        RunLog(tmp_path, 0, validation=False, tensorboard=True)


def test_tensorboard_is_not_imported_unless_asked_for():
    code = "import sys, fastmaml.training.trainer; sys.exit('torch.utils.tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
