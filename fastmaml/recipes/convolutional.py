"""The paper's networks with convolutions: Omniglot, MiniImagenet, and CIFAR-FS by the same recipe (section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import nn

from fastmaml.models import CONV_AND_LINEAR, mini_imagenet_conv4, omniglot_conv4
from fastmaml.recipes import classes, paper
from fastmaml.recipes.base import Recipe
from fastmaml.recipes.omniglot import OmniglotMLPRecipe
from fastmaml.recipes.options import option
from fastmaml.tasks import Episodes, ImageClasses, load_image_parts
from fastmaml.tasks.splits import random_split


@dataclass(frozen=True, kw_only=True)
class OmniglotRecipe(OmniglotMLPRecipe):
    """The paper's "MAML, conv": four convolutions with stride 2 and 64 filters, 60,000 iterations.

    5-way: meta-batches of 32 tasks, 1 step, the paper's α = 0.4, which is 2.0 for a mean cross-entropy. 20-way:
    --ways 20 --meta-batch 16 --train-steps 5 --test-steps 5, whose α = 0.1 is 2.0 as well.
    """

    name: ClassVar[str] = "omniglot"
    title: ClassVar[str] = "Omniglot, four convolutions with stride 2 (section 5.2)"

    filters: int = option(64, "channels of each convolution", minimum=1)

    def model(self) -> nn.Module:
        return omniglot_conv4(self.ways, self.filters, self.generator())

    def adapted(self) -> tuple[str, ...]:
        return CONV_AND_LINEAR

    def paper(self) -> Mapping[int, str]:
        if not self._like_the_paper():
            return {}
        reported = paper.OMNIGLOT_CONV.get((self.ways, self.shots))
        steps = paper.OMNIGLOT_TEST_STEPS if self.ways == 5 else 5
        return {} if reported is None else {steps: f"{reported.percent} ± {reported.ci95}"}


@dataclass(frozen=True, kw_only=True)
class MiniImagenetRecipe(Recipe):
    """The paper's MiniImagenet: 84×84, 32 filters, max-pooling; 5 steps in training and 10 at test.

    The paper's α = 0.01 is for a cross-entropy summed over the support set and divided by the shots; ours is the mean,
    a factor of `ways` smaller, so the same step is α = 0.05. Meta-batches of 4 tasks for 1-shot; for 5-shot,
    --shots 5 --meta-batch 2. At test there are as many queries per class as shots.
    """

    name: ClassVar[str] = "mini-imagenet"
    title: ClassVar[str] = "MiniImagenet, four convolutions with max-pooling (section 5.2)"
    loss: ClassVar[str] = "cross_entropy"
    folders: ClassVar[tuple[str, ...]] = ("mini-imagenet", "miniimagenet")
    size: ClassVar[int] = 84
    reported: ClassVar[Mapping[tuple[int, int], paper.Accuracy]] = paper.MINI_IMAGENET
    published_test: ClassVar[frozenset[str]] = paper.MINI_IMAGENET_TEST_CLASSES
    clip_value: ClassVar[float | None] = 10.0  # as the authors' code has it

    meta_batch: int = option(4, "tasks in a meta-batch; the paper takes 2 for 5-shot", minimum=1)
    ways: int = option(5, "classes of a task", minimum=2)
    shots: int = option(1, "support images of each class, in training and at test", minimum=1)
    queries: int | None = option(15, "query images of each class in training", minimum=1)
    test_queries: int | None = option(
        None, "query images of each class at test [default: as many as shots, as the authors]", minimum=1
    )
    filters: int = option(32, "channels of each convolution", minimum=1)
    inner_lr: float = option(
        0.05,
        "step size of the inner steps, for the mean cross-entropy; the paper's 0.01 is for ways times that loss",
        minimum=0.0,
    )
    train_steps: int = option(5, "inner steps in training", minimum=1)
    test_steps: int = option(10, "inner steps at test; every number from 0 to it is judged", minimum=1)
    split_seed: int = option(
        1, "seed of the split, where the images are not divided into train, val and test", minimum=0
    )
    data: str | None = option(None, "folder that holds the images [default: the environment variable FASTMAML_DATA]")

    def model(self) -> nn.Module:
        return mini_imagenet_conv4(self.ways, self.filters, self.size, self.generator())

    def adapted(self) -> tuple[str, ...]:
        return CONV_AND_LINEAR

    def train_source(self) -> Episodes:
        return self._episodes("train", self.queries)

    def validation_source(self) -> Episodes:
        return self._episodes("val", self.test_queries)

    def test_source(self) -> Episodes:
        return self._episodes("test", self.test_queries)

    def tasks_line(self) -> str:
        names = {"training": "train", "validation": "val", "test": "test"}
        counted = classes.counted({name: self._parts[part].counts for name, part in names.items()})
        split = f"random, seed {self.split_seed}" if self._divided_by_seed() else "as the folder has it"
        return f"tasks: {classes.tasks(self.ways, self.shots)}, from {counted}; split: {split}"

    def paper(self) -> Mapping[int, str]:
        reported = self.reported.get((self.ways, self.shots))
        if reported is None or not self._like_the_paper():
            return {}
        return {paper.MINI_IMAGENET_TEST_STEPS: f"{reported.percent} ± {reported.ci95}"}

    def _like_the_paper(self) -> bool:
        """Whether the test classes are those of the published split, whole."""
        test = self._parts["test"]
        return set(test.names) == self.published_test and bool((test.counts == paper.IMAGES_OF_A_CLASS).all())

    def _divided_by_seed(self) -> bool:
        """Whether the folder is not divided: then the parts are those of the random split."""
        parts = [part.names for part in self._parts.values()]
        names = sorted(name for part in parts for name in part)
        if len(set(names)) < len(names):
            return False
        split = random_split(len(names), tuple(map(len, parts)), self.split_seed)  # type: ignore[arg-type]
        return {names[index] for index in split.test.tolist()} == set(parts[-1])

    @cached_property
    def _parts(self) -> dict[str, ImageClasses]:
        return load_image_parts(self.folders, self.size, self.data, self.split_seed)

    def _episodes(self, part: str, queries: int | None) -> Episodes:
        classes = self._parts[part]
        return Episodes(classes.images, self.ways, self.shots, queries, counts=classes.counts, names=classes.names)


@dataclass(frozen=True, kw_only=True)
class CifarFsRecipe(MiniImagenetRecipe):
    """CIFAR-FS (Bertinetto et al. 2019) with the paper's MiniImagenet network on 32×32 images."""

    name: ClassVar[str] = "cifar-fs"
    title: ClassVar[str] = "CIFAR-FS, the MiniImagenet network on 32×32 images"
    folders: ClassVar[tuple[str, ...]] = ("cifar-fs",)
    size: ClassVar[int] = 32
    reported: ClassVar[Mapping[tuple[int, int], paper.Accuracy]] = paper.CIFAR_FS
    published_test: ClassVar[frozenset[str]] = paper.CIFAR_FS_TEST_CLASSES
