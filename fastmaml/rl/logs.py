"""What a run of reinforcement learning writes down: CSV files and, if wanted, TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastmaml.logs import CsvLog, TensorBoardLog

TRAIN_COLUMNS = (
    *("iteration", "return_before", "return_after", "surrogate_before", "surrogate_after"),
    *("kl", "accepted", "env_steps", "seconds"),
)
VALIDATION_COLUMNS = ("iteration", "steps", "return", "return_ci95")


class RunLog:
    """train.csv, a row for each meta-iteration, validation.csv and tensorboard/; nothing without a folder.

    Args:
        folder: where to write; it exists already.
        after: the iteration that the run resumes after.
        validation, tensorboard: whether to write these.
    """

    def __init__(self, folder: Path | None, after: int, validation: bool, tensorboard: bool) -> None:
        self._train = self._validation = self._events = None
        if folder is None:
            return
        self._train = CsvLog(folder / "train.csv", TRAIN_COLUMNS, after)
        if validation:
            self._validation = CsvLog(folder / "validation.csv", VALIDATION_COLUMNS, after)
        if tensorboard:
            self._events = TensorBoardLog(folder / "tensorboard", after)

    def train(self, row: Mapping[str, Any]) -> None:
        if self._train:
            self._train.write(row)
        if self._events:
            names = ("return_before", "return_after", "kl")
            self._events.write(row["iteration"], {f"train/{name}": row[name] for name in names})

    def validation(self, iteration: int, returns: Tensor) -> None:
        """Rows of validation.csv, one of each number of inner steps, of returns [steps + 1, T]."""
        for row in return_rows(returns):
            if self._validation:
                self._validation.write({"iteration": iteration, **row})
            if self._events:
                self._events.write(iteration, {f"validation/return_step{row['steps']}": row["return"]})

    def sync(self) -> None:
        """Brings all rows to the disk."""
        for log in self._open():
            log.sync()

    def close(self) -> None:
        for log in self._open():
            log.close()

    def _open(self) -> list[CsvLog | TensorBoardLog]:
        return [log for log in (self._train, self._validation, self._events) if log is not None]


def return_rows(returns: Tensor) -> list[dict[str, Any]]:
    """Mean and half-width of the 95% confidence interval over tasks, by inner steps, of returns [steps + 1, T]."""
    tasks = returns.shape[1]
    half = 1.96 * returns.double().std(1) / tasks**0.5 if tasks > 1 else returns.new_zeros(len(returns))
    means = returns.double().mean(1)
    return [
        {"steps": step, "return": mean, "return_ci95": ci95}
        for step, (mean, ci95) in enumerate(zip(means.tolist(), half.tolist(), strict=True))
    ]
