"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fastmaml.models import SinusoidMLP
from fastmaml.recipes import paper
from fastmaml.recipes.base import Recipe
from fastmaml.recipes.options import option
from fastmaml.tasks import Sinusoid


@dataclass(frozen=True, kw_only=True)
class SinusoidRecipe(Recipe):
    """The paper's regression: 1-40-40-1 with ReLU, K = 10, one inner step, 70,000 iterations of 25 tasks.

    The paper's text gives a step size of 0.01, the default command of its code 0.001. With 0.002 the paper's table at
    K = 5 is reached: mean squared errors after 1, 5 and 10 steps of .632/.331/.294, .678/.367/.333 and .613/.309/.281
    with seeds 1, 2 and 3 (paper: .67/.38/.35; with 0.001 and seed 1 .772/.429/.396). With larger ones the network
    trained on K = 10 overshoots on a few test tasks of K = 5 whose points lie close together, and the mean over tasks
    grows or diverges after several steps: measured so at 0.003 and, with nine tenths of it at test, at 0.005.
    """

    name: ClassVar[str] = "sinusoid"
    title: ClassVar[str] = "sinusoid regression, 1-40-40-1 (section 5.1)"
    loss: ClassVar[str] = "mse"

    iterations: int = option(70_000, "meta-iterations; each is one meta-batch and one step of Adam", minimum=1)
    inner_lr: float = option(
        0.002, "step size of the inner steps; the paper's text says 0.01, its code 0.001", minimum=0.0
    )
    shots: int = option(10, "K, support points of a task in training", minimum=1)
    queries: int | None = option(None, "query points of a task in training [default: as many as shots]", minimum=1)
    test_shots: int = option(5, "K, support points of a task at test", minimum=1)
    test_queries: int = option(
        100, "points of each test task, uniform over x in [-5, 5], that it is judged on", minimum=1
    )
    test_tasks: int = option(1_000, "tasks to judge on; the 95% confidence intervals are over them", minimum=2)

    def model(self) -> nn.Module:
        return SinusoidMLP(generator=self.generator())

    def train_source(self) -> Sinusoid:
        return Sinusoid(self.shots, self.queries or self.shots)

    def test_source(self) -> Sinusoid:
        return Sinusoid(self.test_shots, self.test_queries)

    def paper(self) -> Mapping[int, str]:
        if self.test_shots != paper.SINUSOID_SHOTS:
            return {}
        return {steps: f"{mse:.2f}" for steps, mse in paper.SINUSOID_MSE["MAML"].items()}
