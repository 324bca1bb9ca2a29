"""Runs of the recipes of reinforcement learning: a folder each, resumed where it was left."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from fastmaml.recipes.reinforcement import PolicyRecipe
from fastmaml.recipes.reports import policy_figures as figures
from fastmaml.recipes.reports.tables import plus_minus, table, write_csv
from fastmaml.recipes.run import check_folder, description
from fastmaml.rl.environments import BatchedEnvironment, video
from fastmaml.rl.logs import return_rows
from fastmaml.rl.meta import Judged, MetaPolicy
from fastmaml.rl.trainer import Trainer, TrainResult

CSV_COLUMNS = ("steps", "return", "return_ci95", "paper")


def train(
    recipe: PolicyRecipe, folder: Path, environment: BatchedEnvironment | None = None, **options: Any
) -> tuple[MetaPolicy, TrainResult]:
    """Train a recipe in `folder`, or go on where a former run of it stopped there.

    Args:
        environment: in place of the recipe's own.
        options: further arguments of Trainer, such as progress.
    Raises:
        ValueError: the folder holds a run of another recipe, or of this one with other options.
    """
    check_folder(folder, recipe)
    meta = recipe.meta(environment)
    trainer = Trainer(
        meta,
        recipe.update(),
        meta_batch=recipe.meta_batch,
        iterations=recipe.iterations,
        seed=recipe.seed,
        log_dir=folder,
        checkpoint_every=recipe.checkpoint_every,
        validation=recipe.validation(),
        config=description(recipe),
        **options,
    )
    return meta, trainer.run()


def judge(recipe: PolicyRecipe, meta: MetaPolicy, steps: int | None = None) -> Judged:
    """Returns after 0 … `steps` (the recipe's test_steps) inner steps on its test tasks."""
    generator = np.random.default_rng(recipe.test_seed)
    tasks = meta.environment.sample_tasks(recipe.test_tasks, generator)
    steps = recipe.test_steps if steps is None else steps
    return meta.evaluate(tasks, steps, recipe.test_episodes, recipe.test_lrs, generator)


def draw_course(folder: Path) -> Path:
    """Draws the returns of training from train.csv, as course.png beside it.

    Raises:
        ModuleNotFoundError: matplotlib is absent.
    """
    with (folder / "train.csv").open(newline="") as file:
        figures.course(list(csv.DictReader(file)), folder / "course.png")
    return folder / "course.png"


def check_film(recipe: PolicyRecipe) -> None:
    """Raises what `film` would where the environment cannot be drawn: for before the work, not after."""
    task = recipe.environment().sample_tasks(1, np.random.default_rng(recipe.test_seed))[0]
    video.check_renderer(lambda: recipe.drawn(task))


def film(recipe: PolicyRecipe, meta: MetaPolicy, judged: Judged, path: Path) -> None:
    """Draws an episode of the first test task after the last inner step, and writes it as a GIF.

    Raises:
        NoRenderer: where the environment cannot be drawn, naming what to install or set.
    """
    task = recipe.environment().sample_tasks(recipe.test_tasks, np.random.default_rng(recipe.test_seed))[0]
    fast = judged.fast[:1]
    generator = np.random.default_rng(recipe.test_seed)
    images = video.frames(
        lambda: recipe.drawn(task), type(meta.policy), lambda x: meta.engine.predict(meta.plan, fast, x), generator
    )
    video.write(images, path)


def divergence(judged: Judged) -> str | None:
    """What to say where a return is not finite; None where all are."""
    finite = judged.returns.isfinite()
    if bool(finite.all()):
        return None
    steps = int((~finite.flatten(1).all(1)).nonzero()[0])
    return (
        f"the policy diverges: after {steps} inner steps returns are not finite; train with a smaller --inner-lr or "
        "--kl in another folder (--out)"
    )


def return_table(recipe: PolicyRecipe, judged: Judged) -> str:
    """One row for each number of inner steps: the mean return; the paper's numbers where the tasks are its own."""
    reported = recipe.paper()
    rows = [
        [
            str(row["steps"]), plus_minus(row["return"], row["return_ci95"]),
            *([_cell(reported.get(row["steps"]))] if reported else []),
        ]
        for row in return_rows(judged.returns)
    ]  # fmt: skip
    tasks = judged.returns.shape[1]
    title = f"mean return over {tasks} test tasks of {recipe.test_episodes} trajectories ± 95% confidence interval\n"
    return title + table(["steps", "return", *(["paper"] if reported else [])], rows)


def write_returns(recipe: PolicyRecipe, judged: Judged, path: Path) -> None:
    """The same as CSV, whole or not at all."""
    rows = return_rows(judged.returns)
    write_csv(path, CSV_COLUMNS, [{**row, "paper": recipe.paper().get(row["steps"])} for row in rows])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
