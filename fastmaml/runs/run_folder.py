"""The folder of a training run: its checkpoints, the best one, and a lock against two runs in one folder."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from fastmaml.runs import checkpoint
from fastmaml.runs.checkpoint import CheckpointError


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
        """Makes the folder, locks it, and deletes what a killed run was writing into it.

        Raises:
            CheckpointError: a file stands where the folder or its lock belongs. FolderInUse: another process runs
                in this folder.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise CheckpointError(
                f"{self.checkpoints}: cannot be made, a file stands in its way ({error}); "
                "move that away or give another log_dir"
            ) from error
        self._lock = _open_lock(self.path / ".lock")  # held until __exit__
        if not _locked(self._lock):
            self._lock.close()
            raise FolderInUse(f"log_dir: another run is writing to {self.path}; wait for it or give another folder")
        for names in (f"{self.best.name}.*", "nonfinite-*.safetensors.*"):
            checkpoint.prune_interrupted(self.path, names)
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


def _open_lock(path: Path) -> TextIO:
    """Opens the lock, made if absent, without touching what it holds. Raises CheckpointError for what is no file."""
    advice = "allowed is a file of the run's own. Delete it or give another log_dir"
    if path.is_symlink():  # where O_NOFOLLOW is unknown
        raise CheckpointError(f"{path}: is a symbolic link; {advice}")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror}); {advice}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise CheckpointError(f"{path}: is no file; {advice}")
    return os.fdopen(handle, "r+")


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
