"""What `fastmaml reproduce sinusoid` leaves behind: the table, and figures 2, 3 and 6 as PNG and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from fastmaml.evaluation import Evaluation
from fastmaml.recipes import paper
from fastmaml.recipes.regression import SHOTS, Method, RegressionFigure
from fastmaml.recipes.reports import figures
from fastmaml.recipes.reports.figures import Curve, Fit
from fastmaml.recipes.reports.regression_overview import draw_overview
from fastmaml.recipes.reports.tables import plus_minus, table, write_csv
from fastmaml.tasks import SineWaves

Results = Mapping[str, Mapping[int, Evaluation]]
"""Learning curves by method and by K."""

_CURVE_COLUMNS = ("method", "shots", "inner_lr", "steps", "mse", "mse_ci95", "mse_paper")
_FIT_COLUMNS = ("method", "shots", "kind", "steps", "x", "y")
_FIT_STEPS = (0, 1, 10)
_FIT_WAVE = SineWaves(torch.tensor([3.5]), torch.tensor([2.0]))  # like that of the paper's figure 2
_FIT_SEEDS = {5: 8, 10: 3}  # points that do not lie on top of each other
_FIT_X = {5: (0.0, 5.0), 10: (-5.0, 5.0)}  # K = 5: points in one half alone, as the paper has them


def result_table(recipe: RegressionFigure, trained: Sequence[Method], results: Results) -> str:
    """The paper's table, its numbers beside ours: mean squared error at K = 5 after 1, 5 and 10 steps."""
    rows = []
    for method in trained:
        reported = paper.SINUSOID_MSE.get(method.name, {})
        evaluation = results[method.name][paper.SINUSOID_SHOTS]
        lr = f"{method.inner_lr[paper.SINUSOID_SHOTS]:g}" if method.steps else ""
        paper_lr = f"{paper.SINUSOID_STEP_SIZE[method.name]:g}" if reported else ""
        steps: list[int] = [s for s in (1, 5, 10) if s in evaluation.steps]
        for step in steps or [0]:
            measured = plus_minus(evaluation.loss[step].item(), evaluation.loss_ci95[step].item())
            said = f"{reported[step]:.2f}" if step in reported else ""
            rows.append([method.name, str(step) if step else "–", said, paper_lr, measured, lr])
    title = (
        f"mean squared error at K={paper.SINUSOID_SHOTS}: mean ± 95% confidence interval over "
        f"{recipe.test_tasks:,} test tasks,\neach judged on {recipe.test_queries} points uniform over x in [-5, 5]"
    )
    return f"{title}\n" + table(("method", "steps", "paper", "at step size", "measured", "at step size"), rows)


def write_report(
    recipe: RegressionFigure, trained: Sequence[Method], results: Results, folder: Path, drawn: bool = True
) -> list[Path]:
    """Write overview.png, and figure2, figure3 and figure6 (.csv, .png), CSVs first, each file whole or not at all.

    Args:
        drawn: the figures too, for which matplotlib is needed.
    Returns:
        the paths of what was written.
    Raises:
        ModuleNotFoundError: matplotlib is absent; then the CSVs are there.
    """
    fits = [fit for method in trained if method.steps for fit in _fits(method)]
    write_csv(folder / "figure2.csv", _FIT_COLUMNS, [row for _, _, rows in fits for row in rows])
    write_csv(folder / "figure3.csv", _CURVE_COLUMNS, _curve_rows(trained, results, (10,)))
    write_csv(folder / "figure6.csv", _CURVE_COLUMNS, _curve_rows(trained, results, SHOTS))
    tables = [folder / f"figure{number}.csv" for number in (2, 3, 6)]
    if not drawn:
        return tables
    panels = {shots: [_curve(method, results, shots) for method in trained] for shots in SHOTS}
    figures.fits([fit for _, fit, _ in fits], len(_FIT_X), folder / "figure2.png")
    figures.learning_curves({"K = 10": panels[10]}, folder / "figure3.png")
    figures.learning_curves({f"K = {shots}": curves for shots, curves in panels.items()}, folder / "figure6.png")
    ours = [fit for shots, fit, _ in fits if shots == paper.SINUSOID_SHOTS]
    draw_overview(recipe, ours, panels[paper.SINUSOID_SHOTS], folder)
    return [folder / "overview.png", *(path.with_suffix(".png") for path in tables), *tables]


def _curve(method: Method, results: Results, shots: int) -> Curve:
    """An oracle's curve is as long as the others', and flat."""
    evaluation = results[method.name][shots]
    longest = max(len(curves[shots].steps) for curves in results.values())
    repeat = 1 if method.steps else longest
    return Curve(
        method.name,
        evaluation.loss.tolist() * repeat,
        evaluation.loss_ci95.tolist() * repeat,
        _reported(method.name, shots),
        note=f"step size {method.inner_lr[shots]:g}" if method.steps else "",
        paper_note=f"step size {paper.SINUSOID_STEP_SIZE[method.name]:g}" if _reported(method.name, shots) else "",
        flat=method.steps == 0,
    )


def _reported(name: str, shots: int) -> Mapping[int, float]:
    return paper.SINUSOID_MSE.get(name, {}) if shots == paper.SINUSOID_SHOTS else {}


def _curve_rows(trained: Sequence[Method], results: Results, wanted: Sequence[int]) -> list[dict[str, object]]:
    return [
        {
            "method": method.name,
            "shots": shots,
            "inner_lr": method.inner_lr[shots],
            "steps": row["steps"],
            "mse": row["loss"],
            "mse_ci95": row["loss_ci95"],
            "mse_paper": _reported(method.name, shots).get(row["steps"]),
        }
        for shots in wanted
        for method in trained
        for row in results[method.name][shots].rows()
    ]


def _fits(method: Method) -> list[tuple[int, Fit, list[dict[str, object]]]]:
    return [_fit(method, shots) for shots in _FIT_X]


def _fit(method: Method, shots: int) -> tuple[int, Fit, list[dict[str, object]]]:
    """One panel of figure 2 and its rows of the CSV."""
    low, high = _FIT_X[shots]
    generator = torch.Generator().manual_seed(_FIT_SEEDS[shots])
    x = low + (high - low) * torch.rand(1, shots, 1, generator=generator)
    grid = torch.linspace(-5.0, 5.0, 201).reshape(1, -1, 1)
    support = (x, _FIT_WAVE(x))
    maml = method.adapting[shots]
    after = enumerate(maml.adapt_steps(support, max(_FIT_STEPS)))
    curves = {"truth": _FIT_WAVE(grid)} | {str(steps): adapted(grid) for steps, adapted in after if steps in _FIT_STEPS}
    values = {kind: curve.detach().flatten().numpy() for kind, curve in curves.items()}
    points = (x.flatten().numpy(), support[1].flatten().numpy())
    predictions = {steps: values[str(steps)] for steps in _FIT_STEPS}
    title = f"{method.name}, K = {shots}, step size {method.inner_lr[shots]:g}"
    fit = Fit(title, points, grid.flatten().numpy(), values["truth"], predictions)
    return shots, fit, _fit_rows(method.name, shots, fit)


def _fit_rows(name: str, shots: int, fit: Fit) -> list[dict[str, object]]:
    series: list[tuple[str, int | None, np.ndarray, np.ndarray]] = [("support", None, *fit.points)]
    series.append(("truth", None, fit.x, fit.truth))
    series += [("prediction", steps, fit.x, y) for steps, y in fit.predictions.items()]
    return [
        {"method": name, "shots": shots, "kind": kind, "steps": steps, "x": float(a), "y": float(b)}
        for kind, steps, x, y in series
        for a, b in zip(x, y, strict=True)
    ]
