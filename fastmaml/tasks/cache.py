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


def path_for(name: str, fingerprint: Iterable[str]) -> Path:
    """Where the arrays made of the sources with this fingerprint are kept: another fingerprint, another file.

    The folder is FASTMAML_CACHE, else fastmaml within XDG_CACHE_HOME or ~/.cache.
    """
    folder = os.environ.get("FASTMAML_CACHE")
    if not folder:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fastmaml")
    lines = "\n".join([VERSION, *fingerprint])
    digest = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()  # file names need not be UTF-8
    return Path(folder) / f"{name}-{digest[:16]}.npz"


def load(path: Path, names: Iterable[str]) -> dict[str, np.ndarray] | None:
    """The arrays stored at `path`, or None if it is absent, damaged in any way, or lacks one of `names`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read(archive, f"{name}.npy") for name in names}
    except Exception:  # a flipped bit can make zipfile and numpy raise nearly anything, and the arrays are made anew
        return None


def _read(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """An array. zipfile checks the CRC once the whole member is read, so nothing may be left after it."""
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"{member} goes on after the array that its header describes")
        return array


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
