"""The progress bar of a training run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_TERMINAL_SECONDS, _FILE_SECONDS = 0.1, 10.0
_SMOOTHING = 0.02  # what is shown are means over about 50 iterations


class Progress:
    """A bar over iterations with the loss, the accuracy, tasks per second and the time left.

    It is redrawn at most 10 times a second on a terminal and every 10 seconds elsewhere, so that calling `show` after
    every iteration costs next to nothing.

    Args:
        total: iterations of the whole run.
        start: iterations done before.
        meta_batch: tasks of an iteration.
        shown: False draws nothing.
        file: where to draw; stderr if None.
        label: what `loss` is called.
        smoothing: the share of the newest iteration in the mean that is shown.
    """

    def __init__(
        self,
        total: int,
        start: int,
        meta_batch: int,
        shown: bool = True,
        file: TextIO | None = None,
        label: str = "loss",
        smoothing: float = _SMOOTHING,
    ) -> None:
        self._label, self._smoothing = label, smoothing
        self._meta_batch = meta_batch
        self._done = start
        self._note = ""
        self._loss: float | None = None
        self._accuracy: float | None = None
        self._rate: float | None = None  # iterations a second, smoothed
        self._drawn = time.perf_counter()
        self._bar: Any = None
        self._due = float("inf")
        if not shown:
            return
        from tqdm.auto import tqdm

        file = file or sys.stderr
        self._seconds = _TERMINAL_SECONDS if file.isatty() else _FILE_SECONDS
        self._due = self._drawn + self._seconds
        # every update that reaches tqdm is drawn: when to update is decided here
        self._bar = tqdm(total=total, initial=start, bar_format=_FORMAT, mininterval=0, miniters=1, file=file)

    def show(self, iteration: int, loss: float, accuracy: float | None) -> None:
        """Reports an iteration; redraws if it is time."""
        if self._loss is None:
            self._loss, self._accuracy = loss, accuracy
        self._loss += self._smoothing * (loss - self._loss)
        if accuracy is not None and self._accuracy is not None:
            self._accuracy += self._smoothing * (accuracy - self._accuracy)
        if time.perf_counter() >= self._due:
            self.draw(iteration)

    def note(self, text: str) -> None:
        """Appends `text` to the bar from now on, instead of the text before."""
        self._note = text

    def draw(self, iteration: int) -> None:
        """Redraws the bar as of `iteration`."""
        if self._bar is None:
            return
        now = time.perf_counter()
        if iteration > self._done and now > self._drawn:
            rate = (iteration - self._done) / (now - self._drawn)
            self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
        self._bar.set_postfix_str(", ".join(self._texts()), refresh=False)
        self._bar.update(iteration - self._done)
        self._done, self._drawn, self._due = iteration, now, now + self._seconds

    def close(self) -> None:
        """Ends the bar and leaves it on the screen."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._due = None, float("inf")

    def _texts(self) -> Iterator[str]:
        if self._loss is not None:
            yield f"{self._label} {self._loss:.4g}"
        if self._accuracy is not None:
            yield f"accuracy {self._accuracy:.1%}"
        if self._rate is not None:
            yield f"{self._rate * self._meta_batch:,.0f} tasks/s"
        if self._note:
            yield self._note
