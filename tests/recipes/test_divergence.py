"""A result that has diverged is told from one that is only bad."""

from __future__ import annotations

import math

import pytest
import torch

from fastmaml.evaluation import Evaluation
from fastmaml.recipes import SinusoidRecipe
from fastmaml.recipes.divergence import FACTOR, divergence, untrained_loss


def judged(*losses: float) -> Evaluation:
    return Evaluation(torch.tensor(losses, dtype=torch.float64)[:, None].repeat(1, 3))


@pytest.mark.parametrize("losses", [(3, 1, 0.5), (3, 4, 5), (3, FACTOR * 3)])
def test_no_improvement_is_no_divergence(losses):
    assert divergence(judged(*losses), untrained=3) is None


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        (
            (3, 1e13),
            "after 1 inner step the mean loss is 1e+13, and 3 of 3 tasks are beyond 10 times the untrained network's",
        ),
        ((3, 1, 31), "after 2 inner steps the mean loss is 31"),
        ((3, math.nan, 1), "after 1 inner step the mean loss is nan, and 3 of 3 tasks"),
        ((3, 1, math.inf), "after 2 inner steps the mean loss is inf"),
        ((1e9, 1, 1), "before any inner step the mean loss is 1e+09"),
    ],
)
def test_what_diverges_is_said_with_its_step(losses, said):
    assert said in divergence(judged(*losses), untrained=3)


def test_the_tasks_that_diverge_are_counted():
    losses = torch.tensor([[3, 3, 3, 3], [1, 1, 1, math.nan]], dtype=torch.float64)
    assert "1 of 4 tasks" in divergence(Evaluation(losses), untrained=3)


def test_the_untrained_network_predicts_about_nothing():
    recipe = SinusoidRecipe(test_tasks=200)
    x = recipe.test_source().sample(100, torch.Generator().manual_seed(recipe.test_seed)).query.y
    assert untrained_loss(recipe) == pytest.approx(x.square().mean().item(), rel=0.4)
