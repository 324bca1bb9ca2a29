"""Colour images grouped by class, for few-shot classification: MiniImagenet, CIFAR-FS, or folders of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastmaml.tasks import cache as caches
from fastmaml.tasks import image_files as files
from fastmaml.tasks.base import check_count
from fastmaml.tasks.data_folder import data_folder
from fastmaml.tasks.errors import DatasetError
from fastmaml.tasks.splits import random_split

SHARES = (64, 16, 20)  # of 100 classes, where the images are not divided


@dataclass(frozen=True)
class ImageClasses:
    """Classes of images in memory.

    Attributes:
        images: uint8 [classes, most images of a class, 3, size, size]; zeros after a class's last.
        counts: [classes], how many images each has.
        names: of the classes.
    """

    images: Tensor
    counts: Tensor
    names: tuple[str, ...]

    def __getitem__(self, classes: Tensor) -> ImageClasses:
        """Some of the classes."""
        kept = tuple(self.names[index] for index in classes.tolist())
        return ImageClasses(self.images[classes], self.counts[classes], kept)


def load_image_parts(
    folders: Sequence[str], size: int, data: str | Path | None = None, seed: int = 1, cache: bool = True
) -> dict[str, ImageClasses]:
    """The classes of "train", "val" and "test".

    Args:
        folders: names looked for in the data folder, before the data folder itself.
        size: height and width to which images are resized, once.
        data: the folder; by default the environment variable FASTMAML_DATA.
        seed: where the images are not divided, classes are shuffled by it and divided as 64 : 16 : 20.
        cache: keep the resized images in FASTMAML_CACHE, by default ~/.cache/fastmaml. A cache of other files, or a
            damaged one, is never used.

    Raises:
        FileNotFoundError, DatasetError: as `image_files.find_parts` and `read_images`.
        ValueError: `size` is not a positive integer.
    """
    check_count("size", size)
    found = files.find_parts(_find(folders, data))
    parts = {part: _load(part, classes, size, cache) for part, classes in found.items()}
    return parts if "all" not in parts else _divided(parts["all"], seed)


def _divided(everything: ImageClasses, seed: int) -> dict[str, ImageClasses]:
    total = len(everything.names)
    validation, test = (max(1, total * share // sum(SHARES)) for share in SHARES[1:])
    if total < 3:
        raise DatasetError(f"data: {total} classes cannot be divided into train, val and test; give at least three")
    split = random_split(total, (total - validation - test, validation, test), seed)
    return {"train": everything[split.train], "val": everything[split.validation], "test": everything[split.test]}


def _load(part: str, classes: files.Classes, size: int, cache: bool) -> ImageClasses:
    path = caches.path_for(f"images-{part}", files.fingerprint(classes, size)) if cache else None
    arrays = caches.load(path, ("images", "counts")) if path else None
    if arrays is None:
        images, counts = files.read_images(classes, size)
        arrays = {"images": images, "counts": counts}
        if path:
            caches.store(path, arrays)
    return ImageClasses(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["counts"]), tuple(classes))


def _find(folders: Sequence[str], data: str | Path | None) -> Path:
    root = data_folder(data, "the images")
    return next((root / name for name in folders if (root / name).is_dir()), root)
