"""One engine's numbers on a problem, how far they are off, and how far they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines import Engine
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.verify.problem import Problem

BOUNDS: Mapping[torch.dtype, float] = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Largest relative error (norm-wise) of any quantity, by the engine's dtype."""

EAGER_FACTOR = 2.0
"""Where eager PyTorch's own error exceeds the bound, an engine may err this many times as much."""

ORDERS = 3
"""Eager PyTorch's error is the largest over so many orders of the samples: one alone may be small by luck."""

_FINER = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Truth:
    """The float64 reference's numbers on a problem, and the errors that eager float32 PyTorch makes of them.

    fast: [T, P], rounded to float32; predictions and Hessian-vector products are taken there by every engine.
    """

    problem: Problem
    fast: Tensor
    quantities: Mapping[str, Tensor]
    eager: Mapping[str, float]

    @classmethod
    def of(cls, problem: Problem) -> Truth:
        """Runs the reference engine in float64 and in float32."""
        reference, exact = ReferenceEngine(), problem.to(torch.float64)
        fast, _ = reference.adapt(exact.plan, exact.parameters, exact.inner_lr, exact.batch.support, exact.case.steps)
        fast = fast.float().double()
        quantities = measure(reference, exact, fast)
        single = problem.to(torch.float32)
        runs = [
            relative_errors(_measure_rolled(reference, single, fast.float(), shift), quantities)
            for shift in range(ORDERS)
        ]
        eager = {name: max(run[name] for run in runs) for name in quantities}
        return cls(problem, fast, quantities, eager)

    def errors(self, engine: Engine, dtype: torch.dtype) -> dict[str, float]:
        """Relative error of each quantity that `engine` computes in `dtype`."""
        return relative_errors(measure(engine, self.problem.to(dtype), self.fast.to(dtype)), self.quantities)

    def bound(self, quantity: str, dtype: torch.dtype) -> float:
        """Largest error allowed: BOUNDS, or what eager PyTorch needs where the problem is ill-conditioned.

        In float64 eager PyTorch's error is taken to be its float32 error times the ratio of the two precisions.
        """
        eager = self.eager[quantity] * (_FINER if dtype == torch.float64 else 1.0)
        return max(BOUNDS[dtype], EAGER_FACTOR * eager)


def measure(engine: Engine, problem: Problem, fast: Tensor) -> dict[str, Tensor]:
    """All four verbs of an engine: named results in the problem's dtype. fast: [T, P], where to predict and hvp."""
    plan, batch, steps = problem.plan, problem.batch, problem.case.steps
    adapted, losses = engine.adapt(plan, problem.parameters, problem.inner_lr, batch.support, steps)
    meta = engine.meta_gradient(plan, problem.parameters, problem.inner_lr, batch, steps, problem.rule)
    results = {
        "meta-gradient": meta.gradient,
        "fast parameters": adapted,
        "support losses": losses,
        "query losses": meta.query_losses,
        "query outputs": _without_padding(meta.query_outputs, batch.query.weights),
        "predictions": engine.predict(plan, fast, batch.query.x),
        "hvp": engine.hvp(plan, fast, batch.support, problem.vectors),
    }
    if meta.inner_lr_gradient is not None:
        results["inner lr gradient"] = meta.inner_lr_gradient
    return results


def _measure_rolled(engine: Engine, problem: Problem, fast: Tensor, shift: int) -> dict[str, Tensor]:
    """`measure` with the samples of each task in another order: the same numbers but for rounding."""
    batch = TaskBatch(_rolled(problem.batch.support, shift), _rolled(problem.batch.query, shift))
    results = measure(engine, replace(problem, batch=batch), fast)
    per_sample = {name: results[name].roll(-shift, dims=1) for name in ("query outputs", "predictions")}
    return results | per_sample


def _rolled(samples: Samples, shift: int) -> Samples:
    weights = None if samples.weights is None else samples.weights.roll(shift, dims=1)
    return Samples(samples.x.roll(shift, dims=1), samples.y.roll(shift, dims=1), weights)


def relative_errors(results: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """‖result − truth‖ / ‖truth‖ of each quantity; the absolute error where the truth is zero.

    Raises:
        ValueError: a quantity is missing or has another shape than the truth.
    """
    return {name: _relative_error(name, results.get(name), exact) for name, exact in truth.items()}


def _relative_error(name: str, result: Tensor | None, truth: Tensor) -> float:
    if result is None or result.shape != truth.shape:
        given = "nothing" if result is None else f"shape {tuple(result.shape)}"
        raise ValueError(f"{name}: the engine gave {given}, the reference {tuple(truth.shape)}")
    size = truth.norm().item()
    error = (result.double() - truth).norm().item()
    return error / size if size > 0 else error


def _without_padding(outputs: Tensor, weights: Tensor | None) -> Tensor:
    """Rows of padding hold no meaning: zeros in their place."""
    return outputs if weights is None else torch.where((weights > 0).unsqueeze(-1), outputs, 0.0)
