"""What all recipes have in common: an experiment of the paper as data, and the objects it stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.maml import MAML
from fastmaml.plan.inner_lr import LearnLr
from fastmaml.recipes.decay import check_share
from fastmaml.recipes.options import check, check_device, option
from fastmaml.tasks import TaskSource

RULES: dict[str, type[GradientRule]] = {"second-order": SecondOrder, "first-order": FirstOrder}
ENGINES = ("auto", "gpu", "cpu", "functional", "reference")
_LEARN_LR: dict[str, LearnLr] = {"no": False, "parameter": "parameter", "element": "element"}


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """An experiment: what is trained, on which tasks, how, and how it is judged.

    Raises:
        ValueError: an option out of its range, naming it, what was given and what is allowed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    loss: ClassVar[str]
    clip_value: ClassVar[float | None] = None
    """Largest magnitude of an element of the meta-gradient."""

    iterations: int = option(60_000, "meta-iterations; each is one meta-batch and one step of Adam", minimum=1)
    meta_batch: int = option(25, "tasks in a meta-batch", minimum=1)
    shots: int = option(10, "support samples of each class of a task", minimum=1)
    queries: int | None = option(None, "query samples of each class in training [default: as many as shots]", minimum=1)
    inner_lr: float = option(0.01, "step size of the inner steps", minimum=0.0)
    test_lr_factor: float = option(
        1.0, "step size of the inner steps at test over that of training; not used where it is learned", minimum=0.0
    )
    learn_lr: str = option(
        "no", "learn the inner step size, one per parameter tensor or per element", choices=tuple(_LEARN_LR)
    )
    train_steps: int = option(1, "inner steps in training", minimum=1)
    test_steps: int = option(10, "inner steps at test; every number from 0 to it is judged", minimum=1)
    meta_lr: float = option(1e-3, "step size of Adam", minimum=0.0)
    meta_lr_decay: float = option(
        0.0, "share of the iterations, at the end, over which the step size of Adam falls linearly to 0; 0: constant"
    )
    rule: str = option("second-order", "how the meta-gradient is taken", choices=tuple(RULES))
    engine: str = option("auto", "what executes the inner loop", choices=ENGINES)
    device: str = option("cpu", "where to train and judge: cpu, or cuda for a GPU; the tasks are drawn there too")
    test_tasks: int = option(600, "tasks to judge on; the 95% confidence intervals are over them", minimum=2)
    validate_every: int = option(
        2_000, "meta-iterations between two validations, where there are such tasks", minimum=1
    )
    validation_tasks: int = option(600, "tasks of a validation", minimum=2)
    seed: int = option(1, "seed of the initial weights and of the tasks", minimum=0)
    checkpoint_every: int = option(10_000, "meta-iterations between two checkpoints", minimum=1)

    def __post_init__(self) -> None:
        check(self)
        check_share(self.meta_lr_decay)
        check_device(self.device)

    @abstractmethod
    def model(self) -> nn.Module:
        """The network with its initial weights, the same for the same seed."""

    @abstractmethod
    def train_source(self) -> TaskSource:
        """Where the training's tasks come from."""

    @abstractmethod
    def test_source(self) -> TaskSource:
        """Where the tasks come from that the result is judged on."""

    def validation_source(self) -> TaskSource | None:
        """Tasks to watch during training, if there are any apart from training's and test's."""
        return None

    @abstractmethod
    def tasks_line(self) -> str:
        """What the tasks are drawn from and how that is divided, in a line, to be read before training."""

    def adapted(self) -> tuple[str, ...] | None:
        """fnmatch patterns of the parameters that inner steps move; None for all."""
        return None

    def paper(self) -> Mapping[int, str]:
        """What the paper reports on these test tasks, by number of inner steps; empty if they are not the paper's."""
        return {}

    def maml(self) -> MAML:
        """The model wrapped, ready to train."""
        return self._wrap(self.model(), self.inner_lr, _LEARN_LR[self.learn_lr])

    def at_test(self, maml: MAML) -> MAML:
        """The trained MAML as it adapts at test: the same model, at the test's step size unless that is learned."""
        if self.learn_lr != "no" or self.test_lr_factor == 1:
            return maml
        return self._wrap(maml.model, self.test_lr, False)

    @property
    def test_lr(self) -> float:
        """Step size of the inner steps at test, where it is not learned."""
        return self.test_lr_factor * self.inner_lr

    def _wrap(self, model: nn.Module, lr: float, learn_lr: LearnLr) -> MAML:
        return MAML(
            model.to(self.device),
            lr=lr,
            steps=self.train_steps,
            loss=self.loss,
            rule=RULES[self.rule](),
            engine=self.engine,
            adapted=self.adapted(),
            learn_lr=learn_lr,
        )

    def generator(self) -> torch.Generator:
        """The source of the initial weights."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def test_seed(self) -> int:
        """Seed of the tasks to judge on: never that of training."""
        return self.seed + 1_000_003
