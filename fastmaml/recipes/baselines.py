"""The baselines of the paper's regression figure: pretrained on all tasks, and the oracle (section 5.1).

Both are ordinary regression on the union of all tasks, which is MAML whose inner step size is zero: the fast
parameters are the shared ones, and the meta-gradient is the gradient of the mean query loss. So they train
through the same engine, with the same checkpoints and logs, at the same speed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fastmaml.evaluation import evaluate
from fastmaml.gradients import FirstOrder
from fastmaml.maml import MAML
from fastmaml.tasks import Sinusoid, TaskSource

LR_GRID = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Step sizes of fine-tuning to choose from; the paper's figure 2 has 0.01 at K=5 and 0.02 at K=10."""


def ordinary_regression(model: nn.Module, engine: str = "auto") -> MAML:
    """The model in a MAML that does not adapt: training it on query sets is training it on all tasks at once."""
    return MAML(model, lr=0.0, steps=1, loss="mse", rule=FirstOrder(), engine=engine)


def regression_source(points: int, oracle: bool = False) -> Sinusoid:
    """Tasks for `ordinary_regression`: `points` query points each; the support set, which it ignores, has one."""
    return Sinusoid(shots=1, queries=points, oracle=oracle)


@dataclass(frozen=True)
class Tuning:
    """The step size chosen, and the mean loss over 1 … S steps at each one that was tried."""

    lr: float
    losses: Mapping[float, float]


def tune_lr(
    model: nn.Module,
    source: TaskSource,
    *,
    steps: int,
    tasks: int,
    seed: int,
    grid: Sequence[float] = LR_GRID,
    engine: str = "auto",
) -> Tuning:
    """The step size of fine-tuning with the smallest loss, averaged over 1 … `steps` steps, on tasks of their own.

    Args:
        model: what is fine-tuned; left as it is.
        source: tasks with the number of support points to tune for.
        tasks, seed: how many tasks, and which; give another seed than that of the tasks to judge on.
        grid: step sizes to choose from; one at which the loss overflows is never chosen.
    Raises:
        ValueError: the loss is not finite at any of them.
    """
    losses = {}
    for lr in grid:
        evaluation = evaluate(fine_tuning(model, lr, engine), source, tasks=tasks, steps=steps, seed=seed)
        mean = evaluation.loss[1:].mean().item()
        losses[lr] = mean if math.isfinite(mean) else math.inf
    best = min(losses, key=lambda lr: losses[lr])
    if math.isinf(losses[best]):
        raise ValueError(f"grid={tuple(grid)}: the loss is not finite at any step size; give smaller ones")
    return Tuning(best, losses)


def fine_tuning(model: nn.Module, lr: float, engine: str = "auto") -> MAML:
    """The model in a MAML that adapts by plain SGD at that step size; for tests, not for meta-training."""
    return MAML(model, lr=lr, steps=1, loss="mse", engine=engine)
