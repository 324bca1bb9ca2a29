"""The figures of a reproduction, as PNG; matplotlib is only imported here, when one is drawn.

Curves are colour-blind safe (Okabe and Ito), bands are 95% confidence intervals, and open diamonds are what
the paper reports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

COLOURS: Mapping[str, str] = {"MAML": "#0072B2", "pretrained": "#D55E00", "oracle": "#009E73", "random": "#999999"}
_COURSE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STEP_STYLES = ((0, "#999999", ":"), (1, "#56B4E9", "--"), (10, "#0072B2", "-"))
_GREY = "#444444"
_STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.titlesize": 10.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Curve:
    """A loss after 0, 1, … gradient steps: mean and half-width of its 95% confidence interval.

    paper: what the paper reports, by number of steps. note: said in the panel, e.g. its step size; paper_note: the
    paper's. flat: one number, not a course over steps.
    """

    name: str
    mean: Sequence[float]
    ci95: Sequence[float]
    paper: Mapping[int, float] = field(default_factory=dict)
    note: str = ""
    paper_note: str = ""
    flat: bool = False


@dataclass(frozen=True)
class Course:
    """Accuracy over minutes of training: mean and half-width of its 95% confidence interval, from 0 to 1."""

    name: str
    minutes: Sequence[float]
    mean: Sequence[float]
    ci95: Sequence[float]


@dataclass(frozen=True)
class Fit:
    """One task as one method fits it: its sampled points, the true curve, and predictions by steps taken."""

    title: str
    points: tuple[np.ndarray, np.ndarray]
    x: np.ndarray
    truth: np.ndarray
    predictions: Mapping[int, np.ndarray]


def learning_curves(panels: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Mean squared error over gradient steps, one panel per title, the y axis shared."""
    with styled():
        figure, axes = grid(1, len(panels), width=2.9 if len(panels) > 1 else 4.6, height=3.1)
        for axis, (title, curves) in zip(axes, panels.items(), strict=True):
            draw_curves(axis, curves)
            axis.set_title(title)
        axes[0].set_ylabel("mean squared error")
        add_legend(figure, axes)
        write(figure, path)


def fits(panels: Sequence[Fit], columns: int, path: Path) -> None:
    """The true curve, the points of the support set, and what is predicted before and after adaptation."""
    with styled():
        figure, axes = grid(-(-len(panels) // columns), columns, width=3.6, height=2.2)
        for number, (axis, fit) in enumerate(zip(axes, panels, strict=True)):
            draw_fit(axis, fit)
            axis.set_xlabel("x" if number >= len(panels) - columns else "")
            axis.set_ylabel("y" if number % columns == 0 else "")
        add_legend(figure, axes)
        write(figure, path)


def accuracy_over_time(
    courses: Sequence[Course], path: Path, title: str, published: float | None = None, chance: float | None = None
) -> None:
    """Accuracy on test tasks in percent over minutes of training; horizontal lines at what is published, and chance."""
    with styled():
        figure, (axis,) = grid(1, 1, width=5.2, height=3.4)
        for course, colour in zip(courses, _COURSE_COLOURS, strict=False):
            minutes, mean, ci95 = np.asarray(course.minutes), *(100 * np.asarray(v) for v in (course.mean, course.ci95))
            axis.plot(minutes, mean, color=colour, marker="o", markersize=3, label=course.name)
            axis.fill_between(minutes, mean - ci95, mean + ci95, color=colour, alpha=0.18, linewidth=0)
        for value, line, label in ((published, "--", "published"), (chance, ":", "chance")):
            if value is not None:
                axis.axhline(100 * value, color=_GREY, linestyle=line, linewidth=1, label=f"{label}, {100 * value:g}%")
        axis.set(title=title, xlabel="minutes of training", ylabel="accuracy on test tasks, %")
        axis.set_xlim(left=0)
        add_legend(figure, [axis])
        write(figure, path)


def draw_curves(axis: Axes, curves: Sequence[Curve]) -> None:
    """Mean squared error over gradient steps, from 0 to what must be seen of every curve."""
    for curve in curves:
        steps, mean, ci95 = np.arange(len(curve.mean)), np.asarray(curve.mean), np.asarray(curve.ci95)
        colour = COLOURS.get(curve.name, _GREY)
        marker: dict[str, Any] = {"linestyle": "--"} if curve.flat else {"marker": "o", "markersize": 3}
        axis.plot(steps, mean, color=colour, label=curve.name, **marker)
        axis.fill_between(steps, mean - ci95, mean + ci95, color=colour, alpha=0.18, linewidth=0)
        _draw_paper(axis, curve, colour)
    axis.set_xlabel("gradient steps")
    axis.text(1.0, 1.0, _notes(curves), transform=axis.transAxes, ha="right", va="top", fontsize=7.5)
    heights = [height for height in map(_height, curves) if np.isfinite(height)]
    axis.set_ylim(0, 1.12 * max(heights, default=1.0))
    axis.set_xlim(-0.2, max(len(curve.mean) for curve in curves) - 0.8)


def _height(curve: Curve) -> float:
    """What must be seen of a curve: its start and the paper's numbers; where it diverges it may leave the figure."""
    return max(curve.mean[0] + curve.ci95[0], *curve.paper.values(), 0.0)


def _notes(curves: Sequence[Curve]) -> str:
    return "\n".join(f"{curve.name}: {curve.note}" for curve in curves if curve.note)


def _draw_paper(axis: Axes, curve: Curve, colour: str) -> None:
    if curve.paper:
        axis.plot(
            list(curve.paper), list(curve.paper.values()), linestyle="none", marker="D", markersize=6, clip_on=False,
            markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.3, zorder=4,
            label=f"{curve.name} in the paper" + (f", {curve.paper_note}" if curve.paper_note else ""),
        )  # fmt: skip


def draw_fit(axis: Axes, fit: Fit) -> None:
    """One task as one method fits it."""
    axis.plot(fit.x, fit.truth, color="#CC3311", linewidth=1.2, label="ground truth")
    for steps, colour, line in STEP_STYLES:
        if steps in fit.predictions:
            label = {0: "before adaptation", 1: "1 step"}.get(steps, f"{steps} steps")
            axis.plot(fit.x, fit.predictions[steps], color=colour, linestyle=line, label=label)
    axis.plot(*fit.points, linestyle="none", marker="^", markersize=5, color="#AA3377", label="support points")
    axis.set_title(fit.title)


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = empty(width * columns, height * rows + 0.3)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    return figure, list(axes.flat)


def empty(width: float, height: float) -> Figure:
    """A figure of that size in inches, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_legend(figure: FigureBase, axes: Sequence[Axes]) -> None:
    """One legend for all panels, below them; each label once."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    columns = len(entries) if len(axes) > 1 or len(entries) <= 3 else -(-len(entries) // 2)
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def styled() -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = _matplotlib().rc_context(_STYLE)
    return context


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError, naming the extra, where figures cannot be drawn: for before the work, not after."""
    _matplotlib()


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ModuleNotFoundError(
            "figures need matplotlib, which is not installed; run: pip install 'fastmaml[plots]'"
        ) from error
    return matplotlib


def write(figure: Figure, path: Path) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", dpi=160)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
