"""Omniglot with the network without convolutions (Finn et al. 2017, section 5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor, nn

from fastmaml.models import LINEAR_ONLY, OmniglotMLP
from fastmaml.recipes import classes, paper
from fastmaml.recipes.base import Recipe
from fastmaml.recipes.options import option
from fastmaml.tasks import QUARTER_TURNS, Episodes, Omniglot, Split, load_omniglot


@dataclass(frozen=True, kw_only=True)
class OmniglotMLPRecipe(Recipe):
    """The paper's "MAML, no conv": 256-128-64-64 with batch norm, 5-way 1-shot, 60,000 iterations of 32 tasks.

    The paper's α = 0.4 is for a cross-entropy summed over the support set and divided by the shots. Ours is the
    mean over the support set, a factor of `ways` smaller, so the same step is α = 0.4 × 5 = 2.0.
    Batch norm has a shift alone, which is meta-learned but not adapted, and takes the statistics of the batch at
    hand, at test too. At test there are as many queries per class as shots.
    """

    name: ClassVar[str] = "omniglot-mlp"
    title: ClassVar[str] = "Omniglot without convolutions, 784-256-128-64-64-ways (section 5.2)"
    loss: ClassVar[str] = "cross_entropy"

    meta_batch: int = option(32, "tasks in a meta-batch", minimum=1)
    ways: int = option(5, "classes of a task", minimum=2)
    shots: int = option(1, "support drawings of each class, in training and at test", minimum=1)
    queries: int | None = option(
        None,
        "query drawings of each class, in training and at test [default: as many as shots, as the authors]",
        minimum=1,
    )
    inner_lr: float = option(
        2.0,
        "step size of the inner steps, for the mean cross-entropy; the paper's 0.4 is for ways times that loss",
        minimum=0.0,
    )
    test_steps: int = option(3, "inner steps at test; every number from 0 to it is judged", minimum=1)
    split: str = option(
        "random",
        "characters to train, validate and test on: 1100/100/423 by split-seed, or 1028/172/423",
        choices=("random", "vinyals"),
    )
    split_seed: int = option(1, "seed of the random split", minimum=0)
    test_rotations: bool = option(True, "turn test classes by multiples of 90 degrees too, as the authors do")
    data: str | None = option(None, "folder that holds Omniglot [default: the environment variable FASTMAML_DATA]")

    def model(self) -> nn.Module:
        return OmniglotMLP(self.ways, generator=self.generator())

    def adapted(self) -> tuple[str, ...]:
        return LINEAR_ONLY

    def train_source(self) -> Episodes:
        return self._episodes(self._split.train, rotated=True)

    def validation_source(self) -> Episodes:
        return self._episodes(self._split.validation, rotated=self.test_rotations)

    def test_source(self) -> Episodes:
        return self._episodes(self._split.test, rotated=self.test_rotations)

    def tasks_line(self) -> str:
        samples = self._omniglot.images.shape[1]
        parts = {"training": self._split.train, "validation": self._split.validation, "test": self._split.test}
        counted = classes.counted({name: [samples] * len(part) for name, part in parts.items()})
        split = f"random, seed {self.split_seed}" if self.split == "random" else self.split
        turned = "all" if self.test_rotations else "those of training"
        tasks = classes.tasks(self.ways, self.shots)
        return f"tasks: {tasks}, from {counted}, {turned} also turned by quarters; split: {split}"

    def paper(self) -> Mapping[int, str]:
        if not self._like_the_paper():
            return {}
        reported = paper.OMNIGLOT_MLP.get((self.ways, self.shots))
        return {} if reported is None else {paper.OMNIGLOT_TEST_STEPS: f"{reported.percent} ± {reported.ci95}"}

    def _like_the_paper(self) -> bool:
        """Whether the test tasks are drawn as the paper's: from a random split, rotated classes among them."""
        return self.split == "random" and self.test_rotations

    @cached_property
    def _omniglot(self) -> Omniglot:
        return load_omniglot(self.data)

    @property
    def _split(self) -> Split:
        return self._omniglot.split(self.split, self.split_seed)  # type: ignore[arg-type]

    def _episodes(self, classes: Tensor, rotated: bool) -> Episodes:
        images = self._omniglot.images[classes]
        return Episodes(images, self.ways, self.shots, self.queries, QUARTER_TURNS if rotated else (0,))
