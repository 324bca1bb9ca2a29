"""A split in words: how many classes each part has, and how many images a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fastmaml.tasks.images import ImageClasses

Counts = Sequence[int] | Tensor
"""How many images each class has, [classes]."""


def describe_split(parts: Mapping[str, ImageClasses | Counts]) -> list[str]:
    """Lines such as "1,100 train / 100 val / 423 test classes, 20 images each".

    Where the classes are not all of one size, a line for each part follows.

    Args:
        parts: the classes of each part by its name: what `load_image_parts` returns, or the number of images of each
            class, e.g. `Omniglot.counts(split)`.
    """
    counts = {name: _counts(part) for name, part in parts.items()}
    classes = " / ".join(f"{len(sizes):,} {name}" for name, sizes in counts.items()) + " classes"
    present = {name: sizes for name, sizes in counts.items() if sizes}
    every = [size for sizes in present.values() for size in sizes]
    if len(set(every)) <= 1:
        return [f"{classes}, {_images(every)}" if every else classes]
    return [classes, *(f"{name}: {_images(sizes)}" for name, sizes in present.items())]


def _counts(part: ImageClasses | Counts) -> list[int]:
    sizes = part.counts if isinstance(part, ImageClasses) else part
    return [int(size) for size in (sizes.tolist() if isinstance(sizes, Tensor) else sizes)]


def _images(sizes: list[int]) -> str:
    fewest, most = min(sizes), max(sizes)
    if fewest == most:
        return f"{most:,} image{'s' if most != 1 else ''} each"
    return f"{fewest:,} to {most:,} images a class, {sum(sizes):,} in all"
