"""The folder of data that a user names."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder(data: str | Path | None, content: str) -> Path:
    """The folder `data`, by default the one that the environment variable FASTMAML_DATA names.

    Args:
        data: the folder; may begin with ~.
        content: what it should hold, for errors.

    Raises:
        FileNotFoundError: none is given, or it is not a folder.
    """
    given = data if data is not None else os.environ.get("FASTMAML_DATA")
    if not given:
        raise FileNotFoundError(
            f"data: no folder given; name the one that holds {content} by --data FOLDER (Python: data=FOLDER) "
            "or the environment variable FASTMAML_DATA"
        )
    folder = Path(os.path.expanduser(given))  # unlike Path.expanduser, this leaves the ~ of an unknown user
    if not folder.is_dir():
        raise FileNotFoundError(f"data: {folder} is not a folder; give one that holds {content}")
    return folder
