"""The folder of a training run: its checkpoints, the best one, and a lock against two runs in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from fastmaml import checkpoint


class FolderInUse(RuntimeError):
    """Another process writes to the folder of a run."""


class Restorable(Protocol):
    """The state of a run, as it was when a checkpoint was captured."""

    def restore(self, path: Path, state: Mapping[str, Any]) -> None: ...


class RunFolder:
    """checkpoints/iteration-*.safetensors, best.safetensors and the logs of a run; locked while it is entered.

    Args:
        path: the log_dir, made if absent.
        keep: how many of the last checkpoints are kept.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.safetensors"
        self._lock: TextIO | None = None

    def __enter__(self) -> RunFolder:
        """Raises FolderInUse where another process runs in this folder."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "w")  # held until __exit__
        if not _locked(self._lock):
            self._lock.close()
            raise FolderInUse(f"log_dir: another run is writing to {self.path}; wait for it or give another folder")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def latest(self) -> Path | None:
        """The checkpoint of the highest iteration, or None."""
        found = checkpoint.numbered(self.checkpoints)
        return found[-1] if found else None

    def save(self, iteration: int, state: Mapping[str, Any]) -> Path:
        """Writes the checkpoint of an iteration, then deletes those that need not be kept."""
        path = checkpoint.path_of(self.checkpoints, iteration)
        checkpoint.save(path, state)
        checkpoint.prune(self.checkpoints, self.keep)
        return path

    def restore(self, state: Restorable, resume: bool) -> None:
        """Puts `state` where the run in this folder was left, if there is one.

        Raises:
            FileExistsError: there is one, and `resume` is False.
            CheckpointError: it cannot be continued with this state.
        """
        path = self.latest()
        if path is None:
            return
        if not resume:
            raise FileExistsError(
                f"log_dir: {self.path} holds a run already ({path.name}) and resume is False; "
                "give another folder, delete this one, or continue it with resume=True"
            )
        state.restore(path, checkpoint.load(path))

    def nonfinite(self, iteration: int) -> Path:
        """Where the batch of an iteration goes whose loss is not finite."""
        return self.path / f"nonfinite-{iteration:08d}.safetensors"


def _locked(file: TextIO) -> bool:
    """Locks the file until it is closed or the process dies; False where another process holds it."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # a system or a file system without locks
        pass
    return True
