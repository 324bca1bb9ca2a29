"""Image files grouped by class: folders of a class each, or the CSV files of Ravi and Larochelle 2017."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastmaml.tasks.bounded import file_status, list_folder, read_file
from fastmaml.tasks.errors import DatasetError
from fastmaml.tasks.image_tables import read_table
from fastmaml.tasks.pictures import MAX_BYTES, Accepted, decode

PARTS = ("train", "val", "test")
KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGES = "images"  # the folder beside the CSV files

_COLOURS = Accepted(("PNG", "JPEG", "BMP", "WEBP"), "image", "RGB", "fetch it anew or remove it")

Classes = Mapping[str, Sequence[Path]]
"""The images of each class, classes and images in the order of their names."""


def find_parts(root: Path) -> dict[str, Classes]:
    """The classes of train, val and test in `root`, or all of them as "all" where it is not divided.

    Looked for are folders train, val and test that hold a folder for each class; train.csv, val.csv and test.csv
    (filename, label) beside a folder `images`; and folders of a class each.

    Raises:
        FileNotFoundError: none of these is there, or a part of three, or an image that a CSV file names.
        DatasetError: a CSV file is damaged or names a file outside `images`, or a folder cannot be listed.
    """
    if any((root / f"{part}.csv").is_file() for part in PARTS):
        return {part: _from_csv(root / f"{part}.csv", root / IMAGES) for part in PARTS}
    if any((root / part).is_dir() for part in PARTS):
        return {part: _from_folder(root / part) for part in PARTS}
    return {"all": _from_folder(root)}


def _from_folder(folder: Path) -> Classes:
    if not folder.is_dir():
        raise FileNotFoundError(f"data: {folder} is absent; {', '.join(PARTS)} are all needed")
    found = {
        child.name: [path for path in list_folder(child) if path.suffix.lower() in KINDS]
        for child in list_folder(folder)
        if child.is_dir()
    }
    classes = {name: paths for name, paths in found.items() if paths}
    if not classes:
        raise FileNotFoundError(
            f"data: {folder} holds no folders of images; give {', '.join(PARTS)} with a folder for each class, "
            f"or {', '.join(f'{part}.csv' for part in PARTS)} beside a folder '{IMAGES}'"
        )
    return classes


def _from_csv(table: Path, images: Path) -> Classes:
    if not table.is_file():
        raise FileNotFoundError(f"data: {table} is absent; {', '.join(PARTS)} are all needed")
    return read_table(table, images)


def fingerprint(classes: Classes, size: int) -> list[str]:
    """Lines that differ when any of the files does, or their order.

    Raises:
        DatasetError: one of them is no regular file, or larger than MAX_BYTES.
    """
    lines = [f"size {size}"]
    for name, paths in classes.items():
        for path in paths:
            stat = file_status(path, MAX_BYTES)
            lines.append(f"{name} {path} {stat.st_mtime_ns} {stat.st_size}")
    return lines


def read_images(classes: Classes, size: int) -> tuple[np.ndarray, np.ndarray]:
    """All images, and how many each class has [classes]. Those of another size are resized by Lanczos resampling.

    The images are uint8 [classes, most images of a class, 3, size, size], zeros after the last of a class.

    Raises:
        DatasetError: a file is no readable image, is larger than MAX_BYTES or MAX_PIXELS, or all of them do not fit
            into memory.
    """
    counts = np.array([len(paths) for paths in classes.values()])
    images = _room((len(counts), int(counts.max()), 3, size, size))
    for row, paths in zip(images, classes.values(), strict=True):
        for image, path in zip(row, paths, strict=False):
            image[:] = _read(path, size)
    return images, counts


def _room(shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.zeros(shape, np.uint8)
    except (MemoryError, ValueError) as error:  # ValueError: more than can be addressed
        raise DatasetError(
            f"data: {shape[0]:,} classes with room for {shape[1]:,} images each, of {shape[-1]}×{shape[-1]} pixels, "
            f"take {math.prod(shape) / 2**30:,.0f} GiB of memory; give fewer or smaller images, or more even classes"
        ) from error


def _read(path: Path, size: int) -> np.ndarray:
    colours = decode(read_file(path, MAX_BYTES), str(path), _COLOURS)
    if colours.size != (size, size):
        colours = colours.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(colours).transpose(2, 0, 1)
