"""Files and folders of a data set, read within bounds: regular files alone, of a limited size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fastmaml.tasks.errors import DatasetError, reason

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def file_status(path: Path, limit: int) -> os.stat_result:
    """The status of a regular file of at most `limit` bytes, or of a link to one.

    Opening is left to the caller: to open a pipe waits for ever, and to read a device can end never.

    Raises:
        DatasetError: it is something else, larger, or a link that leads nowhere or in a circle.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DatasetError(f"data: {path} cannot be read ({reason(error)}); remove it or fetch it anew") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise DatasetError(f"data: {path} is {kind}, expected a file; move it out of the data folder")
    if status.st_size > limit:
        raise DatasetError(
            f"data: {path} has {status.st_size:,} bytes, allowed are {limit:,}; make it smaller or take it away"
        )
    return status


def read_file(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        DatasetError: as `file_status`, or the file cannot be read, or it grows meanwhile.
    """
    size = file_status(path, limit).st_size
    try:
        with path.open("rb") as file:
            content = file.read(size + 1)
    except OSError as error:
        raise DatasetError(f"data: {path} cannot be read ({reason(error)}); make it readable") from error
    if len(content) != size:
        raise DatasetError(f"data: {path} changed while it was read; try again once it is complete")
    return content


def list_folder(folder: Path) -> list[Path]:
    """What lies in `folder`, sorted by name.

    Raises:
        DatasetError: it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DatasetError(f"data: {folder} cannot be listed ({reason(error)}); make it readable") from error
