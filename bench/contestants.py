"""Who is measured by pytest: every engine of ours, in both ways of calling it, and every rival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench import rivals
from bench.contest import ours
from bench.problem import Problem
from bench.rivals import Absent, Step
from fastmaml import SecondOrder, engines


@dataclass(frozen=True)
class Ours:
    """An engine, called by `maml.backward(batch)` or by `maml.meta_loss(batch).backward()`."""

    engine: str
    autograd: bool = False

    @property
    def name(self) -> str:
        return f"{self.engine}-autograd" if self.autograd else self.engine

    def device(self) -> torch.device:
        """Where the problem belongs.

        Raises:
            Absent: where the engine cannot be had here, or has no GPU to run on.
        """
        try:
            engines.get(self.engine)
        except ValueError as absence:
            raise Absent(str(absence)) from absence
        if self.engine != "gpu":
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise Absent("engine 'gpu' is measured on GPUs of torch.cuda, and there is none")
        return torch.device("cuda")

    def prepare(self, problem: Problem) -> Step:
        """What a user writes; on a GPU it returns once the GPU is done.

        Raises:
            Absent: where the engine does not run the problem.
        """
        plan = problem.plan
        first = next(problem.network.parameters())
        engine, lr = engines.get(self.engine), problem.inner_lr(plan)
        if (refusal := engine.refusal(plan, SecondOrder(), first.device, first.dtype, lr)) is not None:
            raise Absent(refusal)
        step = ours(problem, self.engine, self.autograd)
        return synchronised(step) if first.device.type == "cuda" else step


@dataclass(frozen=True)
class Rival:
    """One of `bench.rivals`, on the CPU."""

    name: str

    def device(self) -> torch.device:
        return torch.device("cpu")

    def prepare(self, problem: Problem) -> Step:
        """Raises Absent where it is not installed."""
        return rivals.prepare(self.name, problem)


Contestant = Ours | Rival


def chosen(engine_names: Sequence[str] | None, rival_names: Sequence[str] | None) -> list[Contestant]:
    """Those named; all of them, the engines first, where neither kind is named."""
    if not engine_names and not rival_names:
        engine_names, rival_names = engines.NAMES, rivals.NAMES
    mine = [Ours(name, autograd) for name in dict.fromkeys(engine_names or ()) for autograd in (False, True)]
    return [*mine, *(Rival(name) for name in dict.fromkeys(rival_names or ()))]


def synchronised(step: Step) -> Step:
    """A step after which the GPU has nothing left to do, so that a clock around it shows all that it takes."""

    def whole() -> tuple[Any, Sequence[Any]]:
        answer = step()
        torch.cuda.synchronize()
        return answer

    return whole
