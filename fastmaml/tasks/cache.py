"""Prepared arrays kept on disk. A cache may be lost or damaged at any time; then it is made anew."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

VERSION = "1"  # raise it when the preparation changes, so that caches of the former one are not used

_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def path_for(name: str, fingerprint: Iterable[str]) -> Path:
    """Where the arrays made of the sources with this fingerprint are kept: another fingerprint, another file.

    The folder is FASTMAML_CACHE, else fastmaml within XDG_CACHE_HOME or ~/.cache.
    """
    folder = os.environ.get("FASTMAML_CACHE")
    if not folder:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fastmaml")
    digest = hashlib.sha256("\n".join([VERSION, *fingerprint]).encode()).hexdigest()
    return Path(folder) / f"{name}-{digest[:16]}.npz"


def load(path: Path, names: Iterable[str]) -> dict[str, np.ndarray] | None:
    """The arrays stored at `path`, or None if it is absent, damaged, or lacks one of `names`."""
    try:
        with np.load(path, allow_pickle=False) as archive:  # reading checks each array's CRC
            return {name: archive[name] for name in names}
    except _DAMAGED:
        return None


def store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Store the arrays whole or not at all; a folder that cannot be written to is left as it is."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
