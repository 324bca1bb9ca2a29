"""Networks whose ReLUs stay clear of their kinks, so that rounding is all in which two engines may differ.

A ReLU whose input is within rounding of zero takes either branch, and no bound on the derivative holds there.
So the samples lie in a few clusters, weights are drawn until every hidden unit tells some clusters apart, and
its threshold is put in the widest gap that they leave: each unit fires for some samples and not for others,
with room to spare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from fastmaml.batch import TaskBatch

_TRIES = 100
_CLEAR = 0.25  # widest gap over the range of a unit's inputs: what counts as told apart
_DEAD = -100.0

Normal = Callable[..., Tensor]
"""Draws standard normal numbers of a shape."""


@torch.no_grad()
def separate(module: nn.Sequential, batch: TaskBatch, normal: Normal, is_dead: Callable[[int, int], Tensor]) -> None:
    """Redraw weights and move biases ahead of each ReLU so that no sample of the batch comes near its kink.

    is_dead(layer, features) says which units of a hidden layer shall never fire: bool [features].
    """
    samples = (batch.support, batch.query)
    values = [s.x for s in samples]  # each [T, N, features]
    weights = [s.weights for s in samples]
    for number, (linear, norm) in enumerate(_hidden(module)):
        outputs = _separated_outputs(linear, norm, values, weights, normal)
        threshold = linear if norm is None else norm
        if threshold.bias is not None:
            shift = torch.where(is_dead(number, linear.out_features), _DEAD, -_widest_gap(_rows(outputs))[1])
            threshold.bias.copy_((threshold.bias + shift).float())
            outputs = [v + shift for v in outputs]
        values = [v.relu() for v in outputs]


def _hidden(module: nn.Sequential) -> Iterator[tuple[nn.Linear, nn.BatchNorm1d | None]]:
    layers = list(module.children())
    for at, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.Linear):
            after = layers[at + 1]
            yield layer, after if isinstance(after, nn.BatchNorm1d) else None


def _separated_outputs(
    linear: nn.Linear, norm: nn.BatchNorm1d | None, values: list[Tensor], weights: list[Tensor | None], normal: Normal
) -> list[Tensor]:
    """What the ReLU is given, its weights redrawn unit by unit until each tells some samples apart."""
    for _ in range(_TRIES):
        outputs = [linear(v) for v in values]
        if norm is not None:
            outputs = [_normalise(norm, v, w) for v, w in zip(outputs, weights, strict=True)]
        poor = ~_is_separated(_rows(outputs), has_threshold=norm is None or norm.bias is not None)
        if not poor.any():
            break
        redrawn = normal(*linear.weight.shape) / linear.in_features**0.5
        linear.weight.copy_(torch.where(poor[:, None], redrawn.float(), linear.weight))
    return outputs


def _rows(values: list[Tensor]) -> Tensor:
    """[T, N, features] and [T, M, features] as [samples, features]."""
    return torch.cat([v.flatten(0, 1) for v in values])


def _is_separated(values: Tensor, has_threshold: bool) -> Tensor:
    """[features]: whether a gap in the column is wide; without a threshold to move, the gap must hold zero."""
    span = values.amax(dim=0) - values.amin(dim=0)
    clear = _widest_gap(values)[0] if has_threshold else values.abs().amin(dim=0)
    return (clear >= _CLEAR * span) | (span < 1e-9)


def _widest_gap(values: Tensor) -> tuple[Tensor, Tensor]:
    """Width and middle, each [features], of the widest gap in each column of [samples, features].

    Where all values of a column are one, the middle is below it.
    """
    ordered = values.sort(dim=0).values
    if len(ordered) == 1:
        return torch.zeros_like(ordered[0]), ordered[0] - 1.0
    width, at = (ordered[1:] - ordered[:-1]).max(dim=0, keepdim=True)
    middle = (ordered.gather(0, at) + ordered.gather(0, at + 1)) / 2
    return width[0], torch.where(width > 1e-9, middle, ordered[:1] - 1.0)[0]


def _normalise(norm: nn.BatchNorm1d, values: Tensor, weights: Tensor | None) -> Tensor:
    """Batch norm of [T, N, features] with the statistics of each task's unpadded samples."""
    kept = torch.ones_like(values[..., :1]) if weights is None else (weights > 0)[..., None].double()
    count = kept.sum(dim=1, keepdim=True)  # [T, 1, 1]
    centred = values - (kept * values).sum(dim=1, keepdim=True) / count
    variance = (kept * centred.square()).sum(dim=1, keepdim=True) / count
    normalised = centred / (variance + norm.eps).sqrt()
    return normalised if norm.weight is None else normalised * norm.weight + norm.bias
