"""The paper's figures of 2D navigation: returns over gradient steps beside its own, and trajectories of one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastmaml.recipes.reinforcement import PolicyRecipe
from fastmaml.recipes.reports import policy_figures as figures
from fastmaml.recipes.reports.policy_figures import ReturnCurve, Trajectories
from fastmaml.recipes.reports.tables import plus_minus, table, write_csv
from fastmaml.recipes.run_policies import judge, train
from fastmaml.recipes.standing import standing
from fastmaml.rl.environments import WithTask
from fastmaml.rl.logs import return_rows
from fastmaml.rl.meta import Judged, MetaPolicy
from fastmaml.rl.trainer import TrainResult
from fastmaml.runs import checkpoint

_RETURN_COLUMNS = ("method", "steps", "return", "return_ci95", "return_paper")
_PATH_COLUMNS = ("task", "goal_x", "goal_y", "steps", "trajectory", "time", "x", "y")
_DRAWN_TASKS, _DRAWN_STEPS, _DRAWN_TRAJECTORIES = 2, (0, 1, 3), 3


@dataclass(frozen=True)
class Method:
    """A way to be good at new tasks: what it is called, and how it was judged on the test tasks."""

    name: str
    judged: Judged


class Interrupted(Exception):
    """A training was stopped by a signal; `result` says where."""

    def __init__(self, result: TrainResult) -> None:
        super().__init__(f"stopped after iteration {result.iteration}")
        self.result = result


def methods(recipe: PolicyRecipe, folder: Path, say: Callable[[str], object] = print, **options: Any) -> list[Method]:
    """Train what is not trained yet, each method in a folder of its own, and judge all on the same test tasks.

    MAML; pretrained: one policy for all tasks, trained without adaptation; random: the initial weights; oracle: one
    policy that observes the task. All but the oracle adapt at test, by the same steps.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; the next call goes on from there.
    """
    unadapted = replace(recipe, train_steps=0)
    told = WithTask(recipe.environment())
    maml = _trained(say, "MAML", recipe, folder / "maml", **options)
    pretrained = _trained(say, "pretrained", unadapted, folder / "pretrained", **options)
    oracle = _trained(say, "oracle", unadapted, folder / "oracle", environment=told, **options)
    say(f"judging on {recipe.test_tasks:,} new tasks")
    return [
        Method("MAML", judge(recipe, maml)),
        Method("pretrained", judge(recipe, pretrained)),
        Method("random", judge(recipe, recipe.meta())),
        Method("oracle", judge(recipe, oracle, steps=0)),
    ]


def _trained(say: Callable[[str], object], name: str, recipe: PolicyRecipe, folder: Path, **options: Any) -> MetaPolicy:
    """The policy that was best on the validation tasks, as the paper keeps it."""
    say(f"{name}: {standing(folder, recipe.iterations, recipe.meta_batch)}")
    meta, result = train(recipe, folder, **options)
    if result.interrupted:
        raise Interrupted(result)
    checkpoint.load_model(folder / "best.safetensors", meta.policy)
    return meta


def result_table(recipe: PolicyRecipe, found: Sequence[Method]) -> str:
    """Mean return by method and number of steps, beside the paper's."""
    rows = []
    for method in found:
        reported = recipe.paper(method.name)
        for row in return_rows(method.judged.returns):
            said = reported.get(row["steps"])
            measured = plus_minus(row["return"], row["return_ci95"])
            rows.append([method.name, str(row["steps"]), "" if said is None else f"{said:.1f}", measured])
    title = f"mean return over {recipe.test_tasks} test tasks ± 95% confidence interval\n"
    return title + table(("method", "steps", "paper", "measured"), rows)


def write_report(recipe: PolicyRecipe, found: Sequence[Method], folder: Path, drawn: bool = True) -> list[Path]:
    """Write returns and trajectories (.csv, .png); gives their paths. CSVs first, each file whole or not at all.

    Args:
        drawn: the figures too, for which matplotlib is needed.
    Raises:
        ModuleNotFoundError: matplotlib is absent; then the CSVs are there.
    """
    goals = recipe.environment().sample_tasks(recipe.test_tasks, np.random.default_rng(recipe.test_seed))
    panels = [_trajectories(found[0].judged, goals, task) for task in range(min(_DRAWN_TASKS, recipe.test_tasks))]
    write_csv(folder / "returns.csv", _RETURN_COLUMNS, _return_rows(recipe, found))
    write_csv(
        folder / "trajectories.csv", _PATH_COLUMNS, [r for i, panel in enumerate(panels) for r in _rows(i, panel)]
    )
    written = [folder / f"{name}.csv" for name in ("returns", "trajectories")]
    if not drawn:
        return written
    title = f"return on {recipe.test_tasks:,} new tasks; the oracle is shown the task, and does not adapt"
    figures.returns([_curve(recipe, method) for method in found], folder / "returns.png", title)
    figures.trajectories(panels, folder / "trajectories.png")
    return [*written, *(path.with_suffix(".png") for path in written)]


def _return_rows(recipe: PolicyRecipe, found: Sequence[Method]) -> list[dict[str, object]]:
    return [
        {"method": method.name, **row, "return_paper": recipe.paper(method.name).get(row["steps"])}
        for method in found
        for row in return_rows(method.judged.returns)
    ]


def _curve(recipe: PolicyRecipe, method: Method) -> ReturnCurve:
    rows = return_rows(method.judged.returns)
    means, halves = [row["return"] for row in rows], [row["return_ci95"] for row in rows]
    return ReturnCurve(method.name, means, halves, recipe.paper(method.name))


def _trajectories(judged: Judged, goals: np.ndarray, task: int) -> Trajectories:
    """Positions of a few trajectories of a task, by the steps of adaptation taken before them."""
    paths: dict[int, list[np.ndarray]] = {}
    for steps in _DRAWN_STEPS:
        if steps >= len(judged.episodes):
            continue
        run = judged.episodes[steps]
        count = min(_DRAWN_TRAJECTORIES, run.real.shape[1])
        paths[steps] = [run.observations[task, e][run.real[task, e]].numpy() for e in range(count)]
    return Trajectories(goals[task], paths)


def _rows(task: int, panel: Trajectories) -> list[Mapping[str, object]]:
    return [
        dict(zip(_PATH_COLUMNS, (task, *panel.goal.tolist(), steps, number, time, *point.tolist()), strict=True))
        for steps, paths in panel.paths.items()
        for number, path in enumerate(paths)
        for time, point in enumerate(path)
    ]
