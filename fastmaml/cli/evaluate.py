"""fastmaml evaluate: judge a trained run again, perhaps on other tasks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastmaml.cli.common import add_threads, recipe_of, set_threads, warned
from fastmaml.cli.options import add_options, flag, given
from fastmaml.cli.places import check_file, place
from fastmaml.recipes import POLICY_RECIPES, RECIPES, PolicyRecipe, Recipe
from fastmaml.recipes import run_policies as policies
from fastmaml.recipes.divergence import divergence, untrained_loss
from fastmaml.recipes.options import options_of
from fastmaml.recipes.reports.tables import evaluation_table, write_evaluation
from fastmaml.recipes.run import CHECKPOINTS, judge
from fastmaml.rl.environments.video import check_path
from fastmaml.runs import checkpoint

OPTIONS = (
    "test_tasks", "test_steps", "test_shots", "test_queries", "shots", "queries",
    "split", "split_seed", "test_rotations", "data", "inner_lr", "test_lr_factor", "engine", "device", "seed",
    "test_episodes", "test_lr", "test_lr_later", "horizon",
)  # fmt: skip
"""The fields of recipes that may differ from those of training."""

_ALL: dict[str, type[Recipe] | type[PolicyRecipe]] = {**RECIPES, **POLICY_RECIPES}


def add_to(commands: Any) -> None:
    help = "judge a trained run on test tasks"
    parser = commands.add_parser("evaluate", help=help, description=help)
    parser.add_argument(
        "checkpoint", type=Path, help="folder that `fastmaml train` wrote, or one of the checkpoints in it"
    )
    parser.add_argument("--csv", type=place, metavar="FILE", help="write the table as CSV too")
    parser.add_argument(
        "--video", type=place, metavar="FILE",
        help="of a policy: draw an episode of the first test task after the last inner step, as FILE.gif; MuJoCo "
        "draws without a screen where MUJOCO_GL is egl or osmesa",
    )  # fmt: skip
    add_threads(parser)
    add_options(parser, *RECIPES.values(), *POLICY_RECIPES.values(), only=OPTIONS, defaults="that of the run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    if arguments.csv is not None:
        check_file("--csv", arguments.csv)
    path = _locate(arguments.checkpoint)
    trained = checkpoint.load_config(path)
    name = trained.pop("recipe", "")
    if name in POLICY_RECIPES:
        return _policies(path, POLICY_RECIPES[name], trained, arguments)
    kind = RECIPES.get(name)
    if kind is None:
        raise ValueError(f"{path} was not trained by a recipe of this version; known are {', '.join(_ALL)}")
    _check_known(kind, arguments)
    if arguments.video is not None:
        raise ValueError(
            f"--video {arguments.video}: a run of {name} has no policy; it draws those of reinforcement learning"
        )
    recipe = recipe_of(kind, arguments, trained)
    maml = recipe.maml()
    checkpoint.load_model(path, maml)
    evaluation = judge(recipe, maml)
    print(evaluation_table(recipe, evaluation))
    if arguments.csv is not None:
        write_evaluation(recipe, evaluation, arguments.csv)
    return warned(divergence(evaluation, untrained_loss(recipe)))


def _policies(path: Path, kind: type[PolicyRecipe], trained: dict[str, Any], arguments: argparse.Namespace) -> int:
    _check_known(kind, arguments)
    if arguments.video is not None:
        check_path(arguments.video)
    recipe = recipe_of(kind, arguments, trained)
    if arguments.video is not None:
        policies.check_film(recipe)
    meta = recipe.meta()
    checkpoint.load_model(path, meta.policy)
    judged = policies.judge(recipe, meta)
    print(policies.return_table(recipe, judged))
    if arguments.csv is not None:
        policies.write_returns(recipe, judged, arguments.csv)
    if arguments.video is not None:
        policies.film(recipe, meta, judged, arguments.video)
    return warned(policies.divergence(judged))


def _locate(path: Path) -> Path:
    """The checkpoint itself, or the last one in the folder of a run."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; give a folder that `fastmaml train` wrote")
    found = checkpoint.numbered(path / CHECKPOINTS) or checkpoint.numbered(path)
    if not found:
        raise FileNotFoundError(f"{path} holds no checkpoint; give a folder that `fastmaml train` wrote")
    return found[-1]


def _check_known(kind: type[Recipe] | type[PolicyRecipe], arguments: argparse.Namespace) -> None:
    known = {item.name for item in options_of(kind)}
    for other in _ALL.values():
        for name in given(other, arguments):
            if name not in known:
                raise ValueError(f"{flag(name)} is no option of a run of {kind.name}")
