"""How a MAML adapts: what its constructor is given beside the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from fastmaml.engines.base import Engine
from fastmaml.gradients import GradientRule
from fastmaml.plan.inner_lr import LearnLr, check_learn
from fastmaml.runtime import checks

BATCH_NORM = ("batch", "running")


@dataclass(frozen=True)
class Options:
    """The options of a MAML; see there. One that does not depend on the model is checked here.

    Raises:
        TypeError, ValueError: naming the argument, what was given, and what is allowed.
    """

    lr: float | Mapping[str, float]
    steps: int
    loss: str | Callable[..., Tensor]
    rule: GradientRule
    engine: str | Engine
    adapted: Iterable[str] | None
    meta_learned: Iterable[str] | None
    learn_lr: LearnLr
    batch_norm: str

    def __post_init__(self) -> None:
        if not isinstance(self.rule, GradientRule):
            raise TypeError(
                f"rule: given {self.rule!r}; allowed is a GradientRule, such as SecondOrder() or FirstOrder()"
            )
        check_learn(self.learn_lr)
        if self.batch_norm not in BATCH_NORM:
            raise ValueError(f"batch_norm: given {self.batch_norm!r}; allowed are 'batch' and 'running'")
        self._set("steps", checks.whole_number("steps", self.steps, 1))
        self._set("lr", dict(self.lr) if isinstance(self.lr, Mapping) else self.lr)
        self._set("adapted", _patterns(self.adapted))
        self._set("meta_learned", _patterns(self.meta_learned))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def _patterns(patterns: Iterable[str] | None) -> tuple[str, ...] | str | None:
    """A string stays one, as the check of patterns is to see it."""
    return patterns if patterns is None or isinstance(patterns, str) else tuple(patterns)
