"""Results as tables and CSV, beside what the paper reports."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastmaml.evaluation import Evaluation
from fastmaml.recipes.base import Recipe
from fastmaml.recipes.run import write_text

CSV_COLUMNS = ("steps", "loss", "loss_ci95", "accuracy", "accuracy_ci95", "paper")


def evaluation_table(recipe: Recipe, evaluation: Evaluation) -> str:
    """One row per number of inner steps: loss, accuracy if there is one, the paper's if the tasks are its own."""
    paper = recipe.paper()
    header = ["steps", recipe.loss.replace("_", "-")]
    header += ["accuracy %"] if evaluation.accuracy is not None else []
    header += ["paper"] if paper else []
    rows = [_evaluation_row(row, paper) for row in evaluation.rows()]
    return f"{evaluation.tasks:,} test tasks, mean ± 95% confidence interval\n" + table(header, rows)


def write_evaluation(recipe: Recipe, evaluation: Evaluation, path: Path) -> None:
    """The same as CSV, whole or not at all; accuracies from 0 to 1."""
    paper = recipe.paper()
    write_csv(path, CSV_COLUMNS, [{**row, "paper": paper.get(row["steps"])} for row in evaluation.rows()])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned on the right, the header underlined."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def plus_minus(mean: float, ci95: float) -> str:
    """A mean and its confidence interval to three decimals, or three digits where it is large."""
    form = ".3f" if abs(mean) < 1000 else ".2e"
    return f"{mean:{form}} ± {ci95:{form}}"


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, whole or not at all; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _evaluation_row(row: Mapping[str, Any], paper: Mapping[int, str]) -> list[str]:
    cells = [str(row["steps"]), plus_minus(row["loss"], row["loss_ci95"])]
    if row["accuracy"] is not None:
        cells.append(f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_ci95']:.1f}")
    return [*cells, *([paper.get(row["steps"], "")] if paper else [])]
