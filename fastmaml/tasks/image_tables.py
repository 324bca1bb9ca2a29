"""The CSV files of Ravi and Larochelle 2017, which name each image's file and class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path, PurePath

from fastmaml.tasks.bounded import read_file
from fastmaml.tasks.errors import DatasetError, reason, shown

MAX_TABLE_BYTES = 64 * 2**20  # more than a million rows, whose images would not fit into memory
COLUMNS = ("filename", "label")


def read_table(table: Path, images: Path) -> dict[str, list[Path]]:
    """The images of each class in the folder `images`, classes and images in the order of their names.

    Raises:
        FileNotFoundError: an image is absent.
        DatasetError: the table is damaged, or names a file outside `images`.
    """
    classes: dict[str, list[Path]] = {}
    for filename, label in _rows(table):
        classes.setdefault(label, []).append(_image(table, images, filename))
    if not classes:
        raise DatasetError(f"data: {table} names no images; expected columns {', '.join(COLUMNS)}")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _rows(table: Path) -> Iterator[tuple[str, str]]:
    """The file name and the label of each row."""
    content = read_file(table, MAX_TABLE_BYTES)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"data: {table} is not text in UTF-8 ({error}); save it as UTF-8") from error
    lines = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in lines:
            filename, label = (row.get(column) for column in COLUMNS)
            if not filename or not label:
                raise DatasetError(f"data: {table} has a row {shown(dict(row))}; expected columns {', '.join(COLUMNS)}")
            yield filename, label
    except csv.Error as error:
        raise DatasetError(
            f"data: {table} is no CSV file after line {lines.line_num} ({reason(error)}); fetch it anew"
        ) from error


def _image(table: Path, images: Path, filename: str) -> Path:
    """The file that a row names: it lies in `images`, whatever a table from elsewhere says."""
    name = PurePath(filename)
    if name.is_absolute() or ".." in name.parts or "\0" in filename:
        raise DatasetError(f"data: {table} names {shown(filename)}; give names of files within {images}")
    try:
        present = (images / name).is_file()
    except OSError as error:
        raise DatasetError(
            f"data: {table} names {shown(filename)}, which is no name of a file ({reason(error)}); correct it"
        ) from error
    if not present:
        raise FileNotFoundError(
            f"data: {images / name} is absent, but {table} names it; extract the images into {images}"
        )
    return images / name
