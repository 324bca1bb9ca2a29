"""What a run of reinforcement learning writes down: CSV files and, if wanted, TensorBoard events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from fastmaml.runs import logs


class RunLog(logs.RunLog):
    """As that of supervised training, with a row of train.csv for each meta-iteration."""

    train_columns: ClassVar[Sequence[str]] = (
        *("iteration", "return_before", "return_after", "surrogate_before", "surrogate_after"),
        *("kl", "accepted", "env_steps", "seconds"),
    )
    validation_columns: ClassVar[Sequence[str]] = ("iteration", "steps", "return", "return_ci95")
    train_scalars: ClassVar[Sequence[str]] = ("return_before", "return_after", "kl")
    validation_scalars: ClassVar[Sequence[str]] = ("return",)


def return_rows(returns: Tensor) -> list[dict[str, Any]]:
    """Mean and half-width of the 95% confidence interval over tasks, by inner steps, of returns [steps + 1, T]."""
    tasks = returns.shape[1]
    half = 1.96 * returns.double().std(1) / tasks**0.5 if tasks > 1 else returns.new_zeros(len(returns))
    means = returns.double().mean(1)
    return [
        {"steps": step, "return": mean, "return_ci95": ci95}
        for step, (mean, ci95) in enumerate(zip(means.tolist(), half.tolist(), strict=True))
    ]
