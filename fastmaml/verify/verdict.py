"""What came out for one contestant on one case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from fastmaml.engines import Engine
from fastmaml.verify.contestants import Contestant, running
from fastmaml.verify.measure import BOUNDS, Truth
from fastmaml.verify.problem import Problem

DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Verdict:
    """Errors and bounds of one contestant on one case in one dtype, by quantity; empty where it refused."""

    contestant: str
    case: str
    dtype: torch.dtype
    errors: Mapping[str, float]
    bounds: Mapping[str, float]
    refusal: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every error is within its bound; nan and inf are not. A refusal passes."""
        return all(error <= self.bounds[quantity] for quantity, error in self.errors.items())

    @property
    def worst(self) -> str:
        """The quantity whose error is the largest share of its bound; nan counts as the largest."""
        return min(self.errors, key=self._headroom)

    @property
    def by_eager(self) -> bool:
        """Whether eager PyTorch's own error sets the bound of the worst quantity."""
        return self.bounds[self.worst] > BOUNDS[self.dtype]

    def _headroom(self, quantity: str) -> float:
        ratio = self.bounds[quantity] / self.errors[quantity] if self.errors[quantity] else float("inf")
        return ratio if ratio == ratio else 0.0


def judge(contestant: Contestant, truth: Truth, dtype: torch.dtype) -> Verdict:
    """Run a contestant on a problem and hold its errors against their bounds."""
    problem, case = truth.problem, truth.problem.case.name
    with running(contestant) as engine:
        refusal = _refusal(engine, problem.to(dtype), dtype)
        if refusal is not None:
            return Verdict(contestant.name, case, dtype, {}, {}, refusal)
        errors = truth.errors(engine, dtype)
    bounds = {quantity: truth.bound(quantity, dtype) for quantity in errors}
    return Verdict(contestant.name, case, dtype, errors, bounds)


def _refusal(engine: Engine, problem: Problem, dtype: torch.dtype) -> str | None:
    reason = engine.refusal(problem.plan, problem.rule, torch.device("cpu"), dtype, problem.inner_lr)
    for samples in (problem.batch.support, problem.batch.query):
        reason = reason or engine.data_refusal(problem.plan, samples)
    return reason
