"""Which engine runs a model, which ones would, and why not the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from fastmaml import engines
from fastmaml.batch import Samples
from fastmaml.engines.base import Engine
from fastmaml.gradients import GradientRule
from fastmaml.plan import InnerLr, Plan

Result = TypeVar("Result")


class EngineChoice:
    """The engines that run a plan, the one to use first.

    Args:
        asked: "auto", a name, or an Engine.
        like: a tensor with the parameters' dtype and device.
        inner_lr: one of the kind that will be used; its values may be others.
    Raises:
        ValueError: where no engine runs the plan, or the one asked for does not; the message says why.
    """

    def __init__(self, asked: str | Engine, plan: Plan, rule: GradientRule, like: Tensor, inner_lr: InnerLr) -> None:
        self.asked, self.plan = asked, plan
        self._arguments = (plan, rule, like.device, like.dtype, inner_lr)
        if asked == "auto":
            self.engines, self.refusals = engines.candidates(*self._arguments)
            return
        engine = asked if isinstance(asked, Engine) else engines.get(asked)
        self.engines, self.refusals = [engine], []
        self._insist(engine.refusal(*self._arguments))

    def _insist(self, reason: str | None) -> None:
        if reason is not None:
            raise ValueError(f"engine: {self.engines[-1].name!r} does not run this: {reason}; or give engine='auto'")

    def for_shapes(self, obstacle: str | None) -> list[Engine]:
        """The engines that remain where `obstacle` keeps the plan's layers from running."""
        if obstacle is None:
            return self.engines
        remaining = [engine for engine in self.engines if not engine.needs_layers]
        self._insist(None if remaining else obstacle)
        return remaining

    def for_weights(self, found: list[Engine]) -> list[Engine]:
        """Those of the engines `found` that take weights of tasks."""
        remaining = [engine for engine in found if engine.weighs_tasks]
        self._insist(None if remaining else "the batch has weights of tasks, and it weighs all alike")
        return remaining

    def for_data(self, found: list[Engine], samples: Samples) -> list[Engine]:
        """Those of the engines `found` that take these samples."""
        if samples.weights is None:
            return found
        refusals = [engine.data_refusal(self.plan, samples) for engine in found]
        remaining = [engine for engine, refusal in zip(found, refusals, strict=True) if refusal is None]
        self._insist(None if remaining else refusals[-1])
        return remaining

    def run(self, found: list[Engine], verb: Callable[[Engine], Result]) -> Result:
        """The verb on the first engine found. Where it fails on the model (torch.func may), the next one runs it."""
        failed: list[tuple[Engine, Exception]] = []
        for engine in found[:-1]:
            try:
                return verb(engine)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError) as error:
                failed.append((engine, error))
        result = verb(found[-1])
        for engine, failure in failed:
            self._give_up(engine, failure)
        return result

    def _give_up(self, engine: Engine, error: Exception) -> None:
        self.engines = [other for other in self.engines if other is not engine]
        self.refusals.append((engine.name, f"it failed on this model ({str(error).strip().splitlines()[0]})"))

    def explain(self) -> str:
        """Which engine runs the model, and why not each faster one."""
        chosen, refusals = self.engines[0], self.refusals
        place = engines.rank(chosen.name)
        lines = [f"engine {chosen.name!r}: the fastest that runs this model"]
        if self.asked != "auto":
            able, refusals = engines.candidates(*self._arguments)
            lines = [f"engine {chosen.name!r}: as asked for"]
            lines += [f"{e.name!r} runs this model too, faster" for e in able if engines.rank(e.name) < place]
        faster = engines.NAMES[:place]
        lines += [f"not {name!r}: {reason}" for name, reason in refusals if name in faster]
        return "\n".join(lines)
