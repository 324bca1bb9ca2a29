"""Losses of one task: weighted means over its samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

#: loss(outputs [N, ...], targets [N, ...], weights [N] or None) -> scalar
LossFn = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """sum(w * l) / sum(w) of per-sample values [N]; the plain mean without weights."""
    if weights is None:
        return values.mean()
    return (weights * values).sum() / weights.sum()


def mse(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Squared error, the mean over outputs and the (weighted) mean over samples.

    Args:
        outputs, targets: [N, ...], of one shape.
        weights: [N], at least 0, not all 0; a sample of weight 0 does not count.
    Raises:
        ValueError: where the shapes differ, as broadcasting [N] against [N, 1] would average N² pairs.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"targets: given {list(targets.shape)} for outputs {list(outputs.shape)}; mse takes targets shaped as "
            "the outputs, [N, outputs] for each task: reshape y"
        )
    return weighted_mean((outputs - targets).square().flatten(1).mean(1), weights)


def cross_entropy(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy of logits against class labels, the (weighted) mean over samples.

    Args:
        outputs: logits [N, ways].
        targets: int64 labels [N] in 0 … ways − 1.
        weights: [N], at least 0, not all 0; a sample of weight 0 does not count.
    Raises:
        ValueError: where the shapes are others.
    """
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise ValueError(
            f"targets: given {list(targets.shape)} for outputs {list(outputs.shape)}; cross_entropy takes logits "
            "[N, ways] and labels [N] for each task: pass a callable loss for other shapes"
        )
    return weighted_mean(F.cross_entropy(outputs, targets, reduction="none"), weights)


NAMED: dict[str, LossFn] = {"mse": mse, "cross_entropy": cross_entropy}


def resolve(loss: str | Callable[..., Tensor]) -> tuple[str | None, LossFn]:
    """The name that kernels know the loss by (None for any other callable), and the loss as a function.

    Args:
        loss: "mse", "cross_entropy", one of the two functions above, or a callable
            loss(outputs [N, ...], targets [N, ...]) -> mean, or loss(outputs, targets, weights [N] or None).
    Raises:
        ValueError: for a name that is not known. TypeError: for what is neither a name nor callable.
    """
    if isinstance(loss, str):
        if loss not in NAMED:
            raise ValueError(f"loss: given {loss!r}; allowed are {sorted(NAMED)} or a callable(outputs, targets)")
        return loss, NAMED[loss]
    if not callable(loss):
        raise TypeError(
            f"loss: given {type(loss).__name__}; allowed are {sorted(NAMED)} or a callable(outputs, targets)"
        )
    for name, function in NAMED.items():
        if loss is function:
            return name, function
    return None, loss if _takes_weights(loss) else Unweighted(loss)


def _takes_weights(loss: Callable[..., Tensor]) -> bool:
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # builtins without a signature
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [p for p in parameters if p.kind in kinds]
    required = [p for p in positional if p.default is p.empty]
    return len(required) >= 3 or (len(positional) >= 3 and positional[2].name == "weights")


class Unweighted:
    """A callable loss(outputs, targets) that has no place for sample weights."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss = loss

    def __call__(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is not None:
            raise ValueError(
                "weights: given, but the loss takes only (outputs, targets); "
                "give a loss(outputs, targets, weights), or leave the weights out"
            )
        return self.loss(outputs, targets)
