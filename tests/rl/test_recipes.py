"""The recipes of reinforcement learning, and the command line that trains and judges them."""

from __future__ import annotations

import csv
import importlib.util
import sys

import pytest
import torch

from fastmaml.cli import main
from fastmaml.recipes import POLICY_RECIPES
from fastmaml.recipes.options import options_of
from fastmaml.recipes.run_policies import divergence
from fastmaml.rl import PPO, TRPO, PolicyGradient
from fastmaml.rl.meta import Judged
from fastmaml.runs import checkpoint

SHORT = ["--iterations", "2", "--meta-batch", "2", "--episodes", "2", "--test-tasks", "3"]
SHORT += ["--test-episodes", "2", "--validation-tasks", "2", "--no-progress"]
TINY = [*SHORT, "--horizon", "6"]


def test_train_then_evaluate(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "nav2d", "--out", str(out), *TINY]) == 0
    said = capsys.readouterr().out
    assert "mean return over 3 test tasks of 2 trajectories" in said
    assert "paper" not in said  # whose episodes are longer
    assert "training: 2 iterations of 2 tasks" in said
    if importlib.util.find_spec("matplotlib"):
        assert (out / "course.png").stat().st_size > 10_000
    assert main(["evaluate", str(out), "--csv", str(tmp_path / "again.csv")]) == 0
    assert capsys.readouterr().out.strip() in said
    assert (tmp_path / "again.csv").read_text() == (out / "evaluation.csv").read_text()
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    assert [row["steps"] for row in rows] == ["0", "1", "2", "3"]
    assert main(["evaluate", str(out / "best.safetensors"), "--test-steps", "1"]) == 0
    assert main(["evaluate", str(out), "--shots", "3"]) == 2
    assert "--shots is no option of a run of nav2d" in capsys.readouterr().err


def test_the_papers_numbers_stand_beside_its_own_tasks(tmp_path, capsys):
    assert main(["train", "nav2d", "--out", str(tmp_path), *SHORT]) == 0
    assert "-11.7" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["train", "nav2d", "--out", str(tmp_path), *TINY]) == 0
    said = capsys.readouterr().out
    assert said.startswith("no figure of training will be drawn: figures need matplotlib")
    assert not (tmp_path / "course.png").exists()


def test_a_run_goes_on_but_not_with_other_options(tmp_path, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["train", "nav2d", *out, *TINY]) == 0
    assert main(["train", "nav2d", *out, *TINY, "--iterations", "3"]) == 0
    assert "training: from iteration 2" in capsys.readouterr().out
    assert main(["train", "nav2d", *out, *TINY, "--iterations", "1"]) == 0
    assert "nothing is trained" in capsys.readouterr().out
    assert checkpoint.numbered(tmp_path / "checkpoints")[-1].name == "iteration-00000003.safetensors"
    assert main(["train", "nav2d", *out, *TINY, "--inner-lr", "0.3"]) == 2
    assert "inner_lr=0.1" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", POLICY_RECIPES)
def test_every_recipe_has_a_policy_that_fits_and_the_papers_numbers(recipe):
    if recipe != "nav2d":
        pytest.importorskip("mujoco")
    meta = POLICY_RECIPES[recipe]().meta()
    assert meta.engine.name == "cpu"
    assert set(POLICY_RECIPES[recipe]().paper()) == {0, 1, 2, 3}


def test_help_has_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["train", "nav2d", "--help"])
    said = capsys.readouterr().out
    assert all(item.name.replace("_", "-") in said for item in options_of(POLICY_RECIPES["nav2d"]))


def test_the_outer_update_is_an_option():
    recipe = POLICY_RECIPES["nav2d"]
    assert recipe(kl=0.02).update() == TRPO(kl=0.02)
    assert recipe(outer="ppo", clip=0.1).update() == PPO(clip=0.1)
    assert recipe(outer="gradient").update() == PolicyGradient()


def test_returns_that_are_not_finite_are_told_with_their_step():
    finite = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert divergence(Judged(finite, [], torch.empty(0))) is None
    broken = torch.tensor([[1.0, 2.0], [3.0, float("nan")]])
    assert "after 1 inner steps returns are not finite" in divergence(Judged(broken, [], torch.empty(0)))


def test_reproduce_draws_returns_and_trajectories(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["reproduce", "nav2d", "--out", str(tmp_path), *SHORT]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("MAML", "pretrained", "random", "oracle", "-82.7"))
    rows = list(csv.DictReader((tmp_path / "returns.csv").open()))
    methods = [row["method"] for row in rows]
    assert methods == ["MAML"] * 4 + ["pretrained"] * 4 + ["random"] * 4 + ["oracle"]
    assert [row["return_paper"] for row in rows[:4]] == ["-40.4", "-11.7", "-3.3", "-3.2"]
    paths = list(csv.DictReader((tmp_path / "trajectories.csv").open()))
    assert {row["steps"] for row in paths} == {"0", "1", "3"}
    assert all(float(row["x"]) == float(row["y"]) == 0 for row in paths if row["time"] == "0")
    for name in ("returns", "trajectories"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
