"""Losses of one task: weighted means over its samples."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

_NO_LABEL = -100  # what torch's cross-entropy ignores by default

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


def gaussian(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Scaled cross-entropy of a Gaussian policy: scale · E[−log N(a; mean, exp(log_std)²)], the mean over samples.

    a has mean `centre` and variance `spread` in each of A dimensions. With a sampled action as the centre, no spread
    and an advantage as the scale it is the loss of REINFORCE; with the moments of another Gaussian and scale 1 it is
    the KL divergence from that one, but for a constant.

    Args:
        outputs: mean and log_std side by side [N, 2A].
        targets: centre, spread, scale side by side [N, 2A + 1]; the scale may have any sign.
        weights: [N], at least 0, not all 0; a sample of weight 0 does not count.
    Raises:
        ValueError: where the shapes are others.
    Source: Williams, "Simple statistical gradient-following algorithms", 1992.
    """
    if outputs.dim() != 2 or outputs.shape[1] % 2 or targets.shape != (len(outputs), outputs.shape[1] + 1):
        raise ValueError(
            f"targets: given {list(targets.shape)} for outputs {list(outputs.shape)}; gaussian takes outputs [N, 2A] "
            "(mean, log_std) and targets [N, 2A + 1] (centre, spread, scale)"
        )
    mean, log_std = outputs.chunk(2, 1)
    actions = outputs.shape[1] // 2
    centre, spread, scale = targets.split([actions, actions, 1], 1)
    surprise = 0.5 * math.log(2 * math.pi) + log_std + 0.5 * (spread + (mean - centre).square()) * (-2 * log_std).exp()
    return weighted_mean((scale * surprise).sum(1), weights)


def categorical(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """−Σ t log softmax(outputs), the (weighted) mean over samples, for targets t of any sign.

    With an action's one-hot vector times its advantage it is the loss of REINFORCE; with the probabilities of another
    policy it is the KL divergence from that one, but for a constant.

    Args:
        outputs: logits [N, A].
        targets: [N, A].
        weights: [N], at least 0, not all 0; a sample of weight 0 does not count.
    Raises:
        ValueError: where the shapes are others.
    """
    if outputs.dim() != 2 or targets.shape != outputs.shape:
        raise ValueError(
            f"targets: given {list(targets.shape)} for outputs {list(outputs.shape)}; categorical takes logits [N, A] "
            "and targets [N, A], such as one-hot actions times advantages"
        )
    return weighted_mean(-(targets * outputs.log_softmax(1)).sum(1), weights)


NAMED: dict[str, LossFn] = {
    "mse": mse,
    "cross_entropy": cross_entropy,
    "gaussian": gaussian,
    "categorical": categorical,
}


def resolve(loss: str | Callable[..., Tensor]) -> tuple[str | None, LossFn]:
    """The name that kernels know the loss by (None for any other callable), and the loss as a function.

    Args:
        loss: "mse", "cross_entropy", "gaussian", "categorical", one of these functions, torch's own form of the first
            two in its default settings, or a callable loss(outputs [N, ...], targets [N, ...]) -> mean, or
            loss(outputs, targets, weights [N] or None).
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
    known = _of_torch(loss)
    return (None, as_callable(loss)) if known is None else (known, NAMED[known])


def as_callable(loss: Callable[..., Tensor]) -> LossFn:
    """A loss as a function of outputs, targets and weights, whatever it is."""
    return loss if _takes_weights(loss) else Unweighted(loss)


def is_of_torch(loss: object) -> bool:
    """Whether a loss is torch's own form of one of `NAMED`, which takes more shapes than ours."""
    return callable(loss) and _of_torch(loss) is not None


def _of_torch(loss: Callable[..., Tensor]) -> str | None:
    """The name of torch's own mean squared error or cross-entropy; None for others, and for other settings."""
    if loss is F.mse_loss or loss is F.cross_entropy:
        return "mse" if loss is F.mse_loss else "cross_entropy"
    if not isinstance(loss, (nn.MSELoss, nn.CrossEntropyLoss)) or _is_altered(loss):
        return None
    if type(loss) is nn.MSELoss:
        return "mse" if loss.reduction == "mean" else None
    if type(loss) is not nn.CrossEntropyLoss:
        return None
    settings = (loss.weight is None, loss.reduction, loss.ignore_index, loss.label_smoothing)
    return "cross_entropy" if settings == (True, "mean", _NO_LABEL, 0.0) else None


def _is_altered(loss: nn.Module) -> bool:
    """Whether it computes something else than its class says."""
    return "forward" in vars(loss) or bool(loss._forward_hooks or loss._forward_pre_hooks)


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
