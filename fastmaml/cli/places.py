"""Where results go: looked at before the work that makes them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def place(text: str) -> Path:
    """The type of an option that names a file or a folder: an empty name is not the folder at hand."""
    if not text.strip():
        raise argparse.ArgumentTypeError("given an empty name; '.' is the folder at hand")
    return Path(text)


def check_folder(option: str, path: Path) -> None:
    """Raises OSError, saying what to do, where files cannot be put into the folder, which need not be there yet."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{option} {path}: is a file, not a folder; give another name")
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{option} {path}: cannot be made, as {there} is a file; give another name")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} {path}: {there} cannot be written to; give another name")


def check_file(option: str, path: Path) -> None:
    """Raises OSError, saying what to do, where a file cannot be written there."""
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path}: is a folder; give the name of a file")
    check_folder(option, path.parent)
