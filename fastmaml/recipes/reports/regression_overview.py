"""The overview of the regression experiment: what its panels say, and the errors over training that it draws."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastmaml.recipes.paper import SINUSOID_STEP_SIZE
from fastmaml.recipes.regression import RegressionFigure
from fastmaml.recipes.reports.figures import Curve, Fit
from fastmaml.recipes.reports.overview import Course, Words, overview

_TITLES = {
    "MAML": "MAML, adapted to five points of a new wave",
    "pretrained": "pretrained on all waves at once, the same five points",
}


def draw_overview(recipe: RegressionFigure, fits: Sequence[Fit], curves: Sequence[Curve], folder: Path) -> None:
    """Draws overview.png.

    Args:
        fits, curves: at K = 5, in the order of the methods.
        folder: of the experiment, which has a run of each method in a folder of its own.
    """
    names = [curve.name for curve in curves]
    panels = [replace(fit, title=_TITLES[name]) for name, fit in zip(names, fits, strict=False)]
    words = Words(
        "Regression of sine waves: what a network makes of five points of a wave it has not seen",
        f"error on {recipe.test_tasks:,} new waves, five points of each",
        "error on the waves of training (MAML: after 1 step)" if recipe.train_steps == 1 else "error in training",
        _caption(recipe, names),
    )
    courses = [_course(name, folder / name.lower()) for name in names]
    overview(panels, curves, courses, words, folder / "overview.png")


def _caption(recipe: RegressionFigure, names: Sequence[str]) -> str:
    said = "Bands: 95% confidence intervals of the mean."
    if "oracle" in names:
        said += " The oracle is told amplitude and phase, and takes no steps."
    reported = SINUSOID_STEP_SIZE["MAML"]
    if recipe.test_lr != reported:
        said += f"\nMAML's step size is {recipe.test_lr:g} here, {reported:g} in the paper."
    return said


def _course(name: str, folder: Path) -> Course:
    with (folder / "train.csv").open(newline="") as file:
        rows = [(int(row["iteration"]), float(row["loss"])) for row in csv.DictReader(file)]
    return Course(name, *zip(*rows, strict=True))
