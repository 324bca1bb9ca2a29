"""Image files grouped by class: folders of a class each, or the CSV files of Ravi and Larochelle 2017."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PARTS = ("train", "val", "test")
KINDS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGES = "images"  # the folder beside the CSV files

Classes = Mapping[str, Sequence[Path]]
"""The images of each class, classes and images in the order of their names."""


def find_parts(root: Path) -> dict[str, Classes]:
    """The classes of train, val and test in `root`, or all of them as "all" where it is not divided.

    Looked for are folders train, val and test that hold a folder for each class; train.csv, val.csv and test.csv
    (filename, label) beside a folder `images`; and folders of a class each.

    Raises:
        FileNotFoundError: none of these is there, or a part of three, or an image that a CSV file names.
        ValueError: a CSV file is cut short or none.
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
        child.name: sorted(path for path in child.iterdir() if path.suffix.lower() in KINDS)
        for child in sorted(folder.iterdir())
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
    classes: dict[str, list[Path]] = {}
    with table.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if not row.get("filename") or not row.get("label"):
                raise ValueError(f"data: {table} has a row {dict(row)}; expected columns filename, label")
            classes.setdefault(str(row["label"]), []).append(images / str(row["filename"]))
    if not classes:
        raise ValueError(f"data: {table} names no images; expected columns filename, label")
    missing = next((path for paths in classes.values() for path in paths if not path.is_file()), None)
    if missing is not None:
        raise FileNotFoundError(f"data: {missing} is absent, but {table} names it; extract the images into {images}")
    return {name: sorted(classes[name]) for name in sorted(classes)}


def fingerprint(classes: Classes, size: int) -> list[str]:
    """Lines that differ when any of the files does, or their order."""
    lines = [f"size {size}"]
    for name, paths in classes.items():
        for path in paths:
            stat = path.stat()
            lines.append(f"{name} {path} {stat.st_mtime_ns} {stat.st_size}")
    return lines


def read_images(classes: Classes, size: int) -> tuple[np.ndarray, np.ndarray]:
    """All images, and how many each class has [classes]. Those of another size are resized by Lanczos resampling.

    The images are uint8 [classes, most images of a class, 3, size, size], zeros after the last of a class.

    Raises:
        ValueError: a file is no readable image; the message has its path.
    """
    counts = np.array([len(paths) for paths in classes.values()])
    images = np.zeros((len(counts), counts.max(), 3, size, size), np.uint8)
    for row, paths in zip(images, classes.values(), strict=True):
        for image, path in zip(row, paths, strict=False):
            image[:] = _read(path, size)
    return images, counts


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as file:
            colours = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"data: {path} is not a readable image ({error}); fetch it anew") from error
    if colours.size != (size, size):
        colours = colours.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(colours).transpose(2, 0, 1)
