"""What few-shot tasks are drawn from, in a line: so that a wrong split is seen before it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def counted(images: Mapping[str, Tensor | Sequence[int]]) -> str:
    """ "64 training, 16 validation and 20 test classes of 600 images", from the images of each class of each part."""
    *first, last = [f"{len(counts):,} {part}" for part, counts in images.items()]
    sizes = [int(count) for counts in images.values() for count in counts]
    few, many = min(sizes), max(sizes)
    return f"{', '.join(first)} and {last} classes of {f'{few:,}' if few == many else f'{few:,} to {many:,}'} images"


def tasks(ways: int, shots: int) -> str:
    """ "5-way 1-shot", as the field says it."""
    return f"{ways}-way {shots}-shot"
