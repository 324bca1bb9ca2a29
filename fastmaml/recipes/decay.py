"""The meta step size over a run."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def check_share(share: float) -> None:
    """Raise ValueError unless it is from 0 to 1."""
    if not 0 <= share <= 1:
        raise ValueError(
            f"meta_lr_decay={share!r}: must be from 0 to 1, a share of the iterations: give 0.3 for the last 30%, "
            "0 for a constant step size"
        )


def linear_decay(optimizer: Optimizer, iterations: int, share: float) -> LambdaLR | None:
    """Lets the step sizes of an optimizer fall linearly to 0 over the last `share` of the iterations.

    Args:
        share: from 0 to 1; with 0 there is nothing to schedule, and None is given.
    Raises:
        ValueError: for another share.
    """
    check_share(share)
    return LambdaLR(optimizer, _factor(iterations, share)) if share else None


def _factor(iterations: int, share: float) -> Callable[[int], float]:
    """Of the step size, by the iterations done and nothing else, so that a resumed run has the same."""
    return lambda done: min(1.0, (iterations - done) / (share * iterations))
