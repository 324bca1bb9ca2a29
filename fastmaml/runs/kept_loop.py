"""What any outer loop does to be continued: its time, and its checkpoints."""

from __future__ import annotations

import time
from typing import Any, Protocol

from fastmaml.runs import checkpoint
from fastmaml.runs.logs import RunLog
from fastmaml.runs.run_folder import RunFolder


class KeptCounters(Protocol):
    iteration: int
    seconds: float


class KeptState(Protocol):
    """The state of a run, which goes into its checkpoints."""

    @property
    def counters(self) -> KeptCounters: ...

    def capture(self) -> dict[str, Any]: ...


class KeptLoop:
    """Saves the state of a run in its folder, if it has one, never ahead of its log."""

    def __init__(self, kept: KeptState, folder: RunFolder | None, log: RunLog) -> None:
        self._kept, self.folder, self.log = kept, folder, log
        self._started = time.perf_counter() - kept.counters.seconds
        self._saved = kept.counters.iteration

    @property
    def seconds(self) -> float:
        """Since the start of the run, that before a resume included."""
        return time.perf_counter() - self._started

    def _begin(self) -> None:
        if self.folder is not None and self._kept.counters.iteration == 0:
            self._save()  # fails early, and a resumed run needs no seeded model

    def _end(self) -> None:
        self._kept.counters.seconds = self.seconds
        if self.folder is not None and self._saved != self._kept.counters.iteration:
            self._save()

    def _save(self) -> None:
        assert self.folder is not None
        self.log.sync()
        self.folder.save(self._kept.counters.iteration, self._capture())
        self._saved = self._kept.counters.iteration

    def _save_best(self) -> None:
        if self.folder is not None:
            checkpoint.save(self.folder.best, self._capture())

    def _capture(self) -> dict[str, Any]:
        self._kept.counters.seconds = self.seconds
        return self._kept.capture()
