"""A split in words."""

import numpy as np
import pytest
import torch

from fastmaml.tasks import ImageClasses, describe_split, load_omniglot


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        ({"train": [20] * 1200, "test": [20] * 423}, ["1,200 train / 423 test classes, 20 images each"]),
        (
            {"train": [500] * 64, "val": np.full(16, 600), "test": torch.full((20,), 600)},
            [
                "64 train / 16 val / 20 test classes",
                "train: 500 images each",
                "val: 600 images each",
                "test: 600 images each",
            ],
        ),
        (
            {"train": [35, 1143, 90], "test": [1]},
            ["3 train / 1 test classes", "train: 35 to 1,143 images a class, 1,268 in all", "test: 1 image each"],
        ),
        ({"train": [5, 5], "val": []}, ["2 train / 0 val classes, 5 images each"]),
        ({"train": []}, ["0 train classes"]),
    ],
)
def test_counts(parts, lines):
    assert describe_split(parts) == lines


def test_what_load_image_parts_returns():
    part = ImageClasses(torch.zeros(2, 4, 3, 8, 8, dtype=torch.uint8), torch.tensor([4, 3]), ("a", "b"))
    assert describe_split({"all": part}) == ["2 all classes", "all: 3 to 4 images a class, 7 in all"]


def test_omniglot(small_omniglot, monkeypatch):
    monkeypatch.setattr("fastmaml.tasks.omniglot.RANDOM_SIZES", (2, 1, 1))
    omniglot = load_omniglot(small_omniglot)
    assert describe_split(omniglot.counts(omniglot.split())) == ["2 train / 1 val / 1 test classes, 20 images each"]
