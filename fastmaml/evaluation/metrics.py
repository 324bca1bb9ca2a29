"""Accuracies of each task, from outputs that an engine gave, and the mean over tasks."""

from __future__ import annotations

from torch import Tensor

from fastmaml.batch import Samples


def task_accuracies(outputs: Tensor, samples: Samples) -> Tensor | None:
    """The share of each task's samples [T], by weight, whose largest output [T, M, ways] is at their label.

    None where the targets are no labels: floating-point numbers, or not one for each sample.
    """
    if samples.y.is_floating_point() or outputs.shape[:-1] != samples.y.shape:
        return None
    correct = (outputs.argmax(-1) == samples.y).to(outputs.dtype).flatten(1)
    if samples.weights is None:
        return correct.mean(1)
    return (correct * samples.weights).sum(1) / samples.weights.sum(1)


def mean_ci95(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the last dimension, and the half width 1.96 std / √N of its 95% confidence interval.

    The standard deviation is that of the N values themselves (divided by N, not N − 1), as in the authors' code
    (cbfinn/maml), so that the intervals are those of the paper's tables.
    """
    return values.mean(-1), 1.96 * values.std(-1, correction=0) / values.shape[-1] ** 0.5
