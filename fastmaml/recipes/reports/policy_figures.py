"""The figures of a reproduction in reinforcement learning, as PNG, in the style of `figures.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fastmaml.recipes.reports.figures import COLOURS, STEP_STYLES, add_legend, grid, styled, write

_GREY = "#444444"


@dataclass(frozen=True)
class ReturnCurve:
    """Mean return after 0, 1, … gradient steps and half-width of its 95% confidence interval; a single number is flat.

    paper: what the paper reports, by number of steps.
    """

    name: str
    mean: Sequence[float]
    ci95: Sequence[float]
    paper: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectories:
    """Paths [steps, 2] to a goal [2], by the gradient steps taken before them."""

    goal: np.ndarray
    paths: Mapping[int, Sequence[np.ndarray]]


def returns(curves: Sequence[ReturnCurve], path: Path, title: str) -> None:
    """Mean return over gradient steps; open diamonds are what the paper reports."""
    longest = max(len(curve.mean) for curve in curves)
    with styled():
        figure, (axis,) = grid(1, 1, width=7.2, height=3.6)
        for curve in curves:
            colour, repeat = COLOURS.get(curve.name, _GREY), longest if len(curve.mean) == 1 else 1
            mean, ci95 = np.repeat(curve.mean, repeat), np.repeat(curve.ci95, repeat)
            steps = np.arange(len(mean))
            axis.plot(steps, mean, color=colour, label=curve.name, linestyle="--" if repeat > 1 else "-")
            axis.fill_between(steps, mean - ci95, mean + ci95, color=colour, alpha=0.18, linewidth=0)
            if curve.paper:
                axis.plot(
                    list(curve.paper), list(curve.paper.values()), linestyle="none", marker="D", markersize=6,
                    markerfacecolor="white", markeredgecolor=colour, label=f"{curve.name} in the paper",
                )  # fmt: skip
        axis.set_xticks(range(longest))
        axis.set(title=title, xlabel="gradient steps", ylabel="mean return (band: 95% interval)")
        add_legend(figure, [axis])
        write(figure, path)


def course(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Returns before and after the inner steps over meta-iterations of training, from the rows of train.csv.

    Thin: each meta-iteration, whose tasks are its own. Thick: a running mean over the last tenth of them, or ten.
    """
    iterations = np.array([int(row["iteration"]) for row in rows])
    window = min(max(10, len(rows) // 10), len(rows))
    with styled():
        figure, (axis,) = grid(1, 1, width=7.2, height=3.6)
        for column, label, colour in (
            ("return_before", "before adaptation", _GREY), ("return_after", "after adaptation", COLOURS["MAML"]),
        ):  # fmt: skip
            values = np.array([float(row[column]) for row in rows])
            means = np.convolve(values, np.full(window, 1 / window), "valid")
            axis.plot(iterations, values, color=colour, linewidth=0.6, alpha=0.5)
            axis.plot(iterations[window - 1 :], means, color=colour, label=label, marker="" if len(means) > 1 else "o")
        axis.locator_params(axis="x", integer=True)
        axis.set_title(f"returns on the tasks of training (thick: mean of {window} meta-iterations)")
        axis.set_xlabel("meta-iterations")
        axis.set_ylabel("mean return")
        add_legend(figure, [axis])
        write(figure, path)


def trajectories(panels: Sequence[Trajectories], path: Path) -> None:
    """One panel a task: paths before and after adaptation, and the goal as a star."""
    styles = dict(zip((0, 1, 3), STEP_STYLES, strict=True))
    with styled():
        figure, axes = grid(1, len(panels), width=3.2, height=3.4)
        for number, (axis, panel) in enumerate(zip(axes, panels, strict=True), 1):
            axis.set_title(f"new goal {number}")
            for steps, paths in panel.paths.items():
                _, colour, line = styles[steps]
                for number, points in enumerate(paths):
                    label = {0: "before adaptation", 1: "1 step"}.get(steps, f"{steps} steps")
                    axis.plot(*points.T, color=colour, linestyle=line, label=label if number == 0 else None)
            axis.plot(
                *panel.goal, linestyle="none", marker="*", markersize=11, color="#CC3311", label="goal, not shown"
            )
            axis.set_aspect("equal", adjustable="box")
            axis.set_xlabel("x")
        axes[0].set_ylabel("y")
        add_legend(figure, axes)
        write(figure, path)
