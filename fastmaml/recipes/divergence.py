"""Whether a result can be believed: a network that adapts to something far worse than it began as has diverged."""

from __future__ import annotations

from fastmaml.evaluation import Evaluation, evaluate
from fastmaml.recipes.base import Recipe

FACTOR = 10.0
"""A loss so many times that of the untrained network is no result."""

_TASKS = 100  # to measure the untrained network on


def untrained_loss(recipe: Recipe) -> float:
    """Mean query loss of the initial weights without adaptation."""
    source = recipe.test_source()
    return (
        evaluate(recipe.maml(), source, tasks=min(_TASKS, recipe.test_tasks), steps=0, seed=recipe.test_seed)
        .loss[0]
        .item()
    )


def divergence(evaluation: Evaluation, untrained: float, name: str = "the network") -> str | None:
    """What to say where a loss is not finite or FACTOR times that of the untrained network; None where none is.

    Args:
        untrained: see `untrained_loss`.
        name: of what was evaluated.
    """
    bad = [step for step in evaluation.steps if not evaluation.loss[step].item() <= FACTOR * untrained]
    if not bad:
        return None
    first = bad[0]
    where = "before any inner step" if first == 0 else f"after {first} inner step{'s' if first > 1 else ''}"
    tasks = int((~(evaluation.task_losses[first] <= FACTOR * untrained)).sum())
    return (
        f"{name} diverges: {where} the mean loss is {evaluation.loss[first].item():.3g}, and {tasks:,} of "
        f"{evaluation.tasks:,} tasks are beyond {FACTOR:g} times the untrained network's {untrained:.3g}; train with a "
        "smaller --inner-lr or --meta-lr in another folder (--out), or look at fewer inner steps by --test-steps"
    )
