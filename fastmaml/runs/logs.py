"""What a training run writes down: CSV files and, if wanted, TensorBoard events."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fastmaml.runs.checkpoint import CheckpointError

_DIGITS = 16  # of the largest iteration


class CsvLog:
    """A CSV file whose first column is the iteration, and which a resumed run continues.

    Args:
        path: the file, made if absent.
        columns: the header; the first is "iteration".
        after: the last iteration whose rows are kept; what follows, or is cut short, is cut off.
    Raises:
        CheckpointError: it is no file, has another header, or is damaged before the last row that is to be kept.
    """

    def __init__(self, path: Path, columns: Sequence[str], after: int = 0) -> None:
        self.columns = tuple(columns)
        header = ",".join(self.columns).encode() + b"\n"
        lines = _lines(path)
        if lines and lines[0] != header and header.startswith(lines[0]):
            lines = []  # killed while writing the header
        if lines and lines[0].rstrip(b"\r\n") != header.rstrip():
            raise CheckpointError(
                f"{path}: has other columns than {self.columns}; move it away or give another log_dir"
            )
        kept = sum(map(len, lines[: _rows_to_keep(path, lines, after)]))
        self._file = open(path, "r+b" if path.exists() else "w+b", buffering=0)  # noqa: SIM115 - closed by close()
        self._file.truncate(kept)
        self._file.seek(kept)
        if not kept:
            self._file.write(header)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row in one write; floats with all their digits, None as an empty field."""
        self._file.write(",".join(_field(row.get(column)) for column in self.columns).encode() + b"\n")

    def sync(self) -> None:
        """Waits until the rows are on the disk, so that no checkpoint is ahead of its log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorBoardLog:
    """TensorBoard events; those after iteration `after` of a former run are hidden.

    Raises:
        ImportError: where the tensorboard package is not installed.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter  # a second to import, so only where asked for

        self._writer = SummaryWriter(str(folder), purge_step=after + 1)  # type: ignore[no-untyped-call]

    def write(self, iteration: int, scalars: Mapping[str, float | None]) -> None:
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, iteration)  # type: ignore[no-untyped-call]

    def sync(self) -> None:
        self._writer.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._writer.close()  # type: ignore[no-untyped-call]


def check_tensorboard() -> None:
    """Raises ImportError, saying what to do, where the tensorboard package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError("tensorboard=True needs the tensorboard package: pip install tensorboard, or leave it out")


class RunLog:
    """The log of a run in its folder: train.csv, validation.csv and tensorboard/; nothing without a folder.

    Args:
        folder: where to write; it exists already.
        after: the iteration that the run resumes after.
        validation, tensorboard: whether to write these.
    Attributes:
        train_columns, validation_columns: of the CSV files.
        train_scalars, validation_scalars: the columns that TensorBoard is told of.
    """

    train_columns: ClassVar[Sequence[str]] = ("iteration", "loss", "accuracy", "lr", "seconds")
    validation_columns: ClassVar[Sequence[str]] = (
        *("iteration", "steps", "loss", "loss_ci95"),
        *("accuracy", "accuracy_ci95"),
    )
    train_scalars: ClassVar[Sequence[str]] = ("loss", "accuracy", "lr")
    validation_scalars: ClassVar[Sequence[str]] = ("loss", "accuracy")

    def __init__(self, folder: Path | None, after: int, validation: bool, tensorboard: bool) -> None:
        self._train = self._validation = self._events = None
        if folder is None:
            return
        self._train = CsvLog(folder / "train.csv", self.train_columns, after)
        if validation:
            self._validation = CsvLog(folder / "validation.csv", self.validation_columns, after)
        if tensorboard:
            self._events = TensorBoardLog(folder / "tensorboard", after)

    def train(self, row: Mapping[str, Any]) -> None:
        """A row of train.csv."""
        if self._train:
            self._train.write(row)
        if self._events:
            self._events.write(row["iteration"], {f"train/{name}": row.get(name) for name in self.train_scalars})

    def validation(self, iteration: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of validation.csv, one of each number of inner steps."""
        for row in rows:
            if self._validation:
                self._validation.write({"iteration": iteration, **row})
            if self._events:
                scalars = {f"validation/{name}_step{row['steps']}": row[name] for name in self.validation_scalars}
                self._events.write(iteration, scalars)

    def sync(self) -> None:
        """Brings all rows to the disk."""
        for log in self._open():
            log.sync()

    def close(self) -> None:
        for log in self._open():
            log.close()

    def _open(self) -> list[CsvLog | TensorBoardLog]:
        return [log for log in (self._train, self._validation, self._events) if log is not None]


def _lines(path: Path) -> list[bytes]:
    """The lines of a log, with their ends; none where it does not exist. Raises CheckpointError for what is no file."""
    if not path.exists():
        return []
    if not path.is_file():
        raise CheckpointError(f"{path}: is no file, and a log belongs there; move it away or give another log_dir")
    with open(path, "rb") as file:
        return file.readlines()


def _rows_to_keep(path: Path, lines: list[bytes], after: int) -> int:
    """How many lines to keep: the header, and the whole rows up to iteration `after`, which are in order.

    A crash may leave anything behind them, but nothing between them: what cannot be read there is damage.
    """
    commas = lines[0].count(b",") if lines else 0
    kept = [index for index, line in enumerate(lines[1:], 1) if _is_kept(line, commas, after)]
    last = kept[-1] if kept else min(len(lines), 1) - 1
    if damaged := sorted(set(range(1, last)) - set(kept)):
        line = lines[damaged[0]]
        raise CheckpointError(
            f"{path}: line {damaged[0] + 1} is {line[:40]!r} ({len(line)} bytes); allowed are rows of {commas + 1} "
            f"fields in the order of their iterations, up to {after}. Mend the line, or move the file away"
        )
    return last + 1


def _is_kept(line: bytes, commas: int, after: int) -> bool:
    """Whether it is a whole row up to iteration `after`."""
    iteration = line.split(b",", 1)[0]
    whole = line.endswith(b"\n") and line.isascii() and line.count(b",") == commas
    return whole and iteration.isdigit() and len(iteration) <= _DIGITS and int(iteration) <= after


def _field(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
