"""Classes divided into those to train, validate and test on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Class indices, int64, sorted, no class in two parts."""

    train: Tensor
    validation: Tensor
    test: Tensor


def random_split(classes: int, sizes: tuple[int, int, int], seed: int) -> Split:
    """`classes` shuffled by `seed` and cut into train, validation and test of the given `sizes`.

    Raises:
        ValueError: `sizes` are negative or do not add up to `classes`.
    """
    if len(sizes) != 3 or min(sizes) < 0 or sum(sizes) != classes:
        raise ValueError(
            f"sizes={sizes}: give three numbers (train, validation, test) that add up to {classes} classes"
        )
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    return Split(*(part.sort().values for part in order.split(sizes)))
