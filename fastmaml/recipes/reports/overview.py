"""The reproduction of the regression experiment in one figure, for someone who sees it for the first time.

Above: one new task as each method fits it, before and after adaptation. Below: the error over gradient steps on many
new tasks, beside the paper's, and the error over training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastmaml.recipes.reports.figures import (
    COLOURS,
    Curve,
    Fit,
    add_legend,
    draw_curves,
    draw_fit,
    empty,
    styled,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Course:
    """Mean squared error on the tasks of training, over iterations."""

    name: str
    iterations: Sequence[int]
    error: Sequence[float]


@dataclass(frozen=True)
class Words:
    """What is written: above the figure, above the panels of curves and of courses, and below the figure."""

    title: str
    curves: str
    courses: str
    caption: str


def overview(fits: Sequence[Fit], curves: Sequence[Curve], courses: Sequence[Course], words: Words, path: Path) -> None:
    """Draw it. fits: of one task, a panel each, with the y axis shared."""
    with styled():
        figure = empty(width=9.4, height=7.2)
        figure.suptitle(words.title, fontsize=12)
        figure.supxlabel(words.caption, fontsize=8.5)
        above, below = figure.subfigures(2, 1, squeeze=False).flat
        axes = list(above.subplots(1, len(fits), sharex=True, sharey=True, squeeze=False).flat)
        for axis, fit in zip(axes, fits, strict=True):
            draw_fit(axis, fit)
            axis.set_xlabel("x")
        axes[0].set_ylabel("y")
        add_legend(above, axes)
        left, right = below.subplots(1, 2)
        draw_curves(left, curves)
        left.set(title=words.curves, ylabel="mean squared error")
        _draw_courses(right, courses)
        right.set_title(words.courses)
        add_legend(below, [left, right])
        write(figure, path)


def _draw_courses(axis: Axes, courses: Sequence[Course]) -> None:
    for course in courses:
        thousands = np.asarray(course.iterations) / 1000
        axis.plot(thousands, course.error, color=COLOURS[course.name], linewidth=1, label=course.name)
    axis.set(yscale="log", xlabel="iterations, thousands", ylabel="mean squared error, logarithmic")
    axis.set_xlim(left=0)
