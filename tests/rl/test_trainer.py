"""rl.Trainer: its logs, its checkpoints, and that a run which is killed ends as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastmaml.rl.meta import MetaPolicy, Settings
from fastmaml.rl.outer import PPO, TRPO
from fastmaml.rl.policies import GaussianPolicy
from fastmaml.rl.trainer import Trainer, Validation
from fastmaml.runs import checkpoint
from fastmaml.runs.checkpoint import CheckpointError
from tests.rl.problems import Corridor, corridor
from tests.small_runs import ROOT, rows, same


def trainer(folder, iterations=6, seed=0, outer=None, **options):
    meta = corridor(seed=seed)
    watch = Validation(every=2, tasks=3, episodes=2, steps=2)
    options = {"progress": False, "checkpoint_every": 2, "validation": watch, **options}
    return Trainer(meta, outer or TRPO(), meta_batch=3, iterations=iterations, log_dir=folder, **options)


def model(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.numbered(folder / "checkpoints")[-1])["model"]


def test_a_run_is_logged_and_its_best_policy_kept(tmp_path):
    result = trainer(tmp_path).run()
    assert (result.iteration, result.signal, len(result.returns)) == (6, None, 2)
    assert len((tmp_path / "train.csv").read_text().splitlines()) == 7
    validated = [line.split(",") for line in (tmp_path / "validation.csv").read_text().splitlines()[1:]]
    assert [row[:2] for row in validated] == [[str(i), str(k)] for i in (2, 4, 6) for k in (0, 1, 2)]
    best = max(float(row[2]) for row in validated if row[1] == "2")
    assert result.best_value == pytest.approx(best)
    assert checkpoint.load(tmp_path / "best.safetensors")["iteration"] == result.best_iteration


def test_training_learns_the_corridor(tmp_path):
    result = trainer(None, iterations=40, validation=None).run()
    assert result.returns[-1] > result.returns[0] + 0.5


@pytest.mark.parametrize(("call", "function"), [("9", "fsync"), ("4", "replace"), ("2", "unlink")])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, call, function):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    trainer(whole).run()
    command = [sys.executable, "-m", "tests.rl.killable", str(killed), function, call]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    trainer(killed, seed=5).run()  # from another initialisation, which must not matter
    assert same(model(killed), model(whole))
    for name in ("train.csv", "validation.csv"):
        assert rows(killed / name) == rows(whole / name)


def test_a_finished_run_can_be_extended(tmp_path):
    trainer(tmp_path / "a", 3).run()
    assert trainer(tmp_path / "a", 5).run().iteration == 5
    trainer(tmp_path / "b", 5).run()
    assert same(model(tmp_path / "a"), model(tmp_path / "b"))


def test_what_cannot_be_continued_is_told(tmp_path):
    trainer(tmp_path, 2).run()
    with pytest.raises(CheckpointError, match=r"outer was 'TRPO.*' and is 'PPO.*' now"):
        trainer(tmp_path, 3, outer=PPO()).run()
    with pytest.raises(FileExistsError, match="resume is False"):
        trainer(tmp_path, 3, resume=False).run()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("iteration", -5, "'iteration' is -5; allowed is a whole number from 0"),
        ("random", torch.zeros(3, dtype=torch.uint8), "does not fit the random state"),
        ("random", None, "'random' is absent or None"),
        ("model", None, "'model' is absent or None"),
        ("counters/env_steps", 10**30, "'counters/env_steps' is 1000.*; allowed is a whole number from 0"),
        ("counters/seconds", float("nan"), "'counters/seconds' is nan; allowed is a finite number from 0"),
        ("settings", "x", "'settings' is 'x'; allowed is a dict"),
    ],
)
def test_a_field_that_was_never_saved_is_refused_by_name(tmp_path, field, value, message):
    trainer(tmp_path, 2).run()
    path = checkpoint.numbered(tmp_path / "checkpoints")[-1]
    state = at = checkpoint.load(path)
    *keys, last = field.split("/")
    for key in keys:
        at = at[key]
    at[last] = value
    checkpoint.save(path, state)
    with pytest.raises(CheckpointError, match=f"{path.name}: {message}"):
        trainer(tmp_path, 3).run()


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: trainer(None, 0), ValueError, "iterations: given 0"),
        (lambda: trainer(None, outer="trpo"), TypeError, r"outer: given str; allowed are TRPO\(\)"),
        (lambda: Settings(steps=-1), ValueError, "steps: given -1; allowed are integers from 0"),
        (lambda: Settings(discount=1.5), ValueError, "discount: given 1.5; allowed are numbers from 0 to 1"),
        (lambda: MetaPolicy(GaussianPolicy(2, 2), Corridor(), Settings()), ValueError, "give a CategoricalPolicy"),
        (lambda: MetaPolicy(GaussianPolicy(2, 2), Corridor(), Settings(), "none"), ValueError, "policy|engine"),
    ],
)
def test_bad_arguments_are_refused_by_name(build, error, message):
    with pytest.raises(error, match=message):
        build()
