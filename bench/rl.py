"""python -m bench.rl: one meta-iteration of MAML-TRPO, its optimisation ours and by double backward in eager PyTorch.

The setting is the paper's 2D navigation: 20 tasks of 20 trajectories of 100 steps. Both take the same step from the
same episodes: surrogate gradient, ten iterations of conjugate gradient on the curvature, line search. Eager PyTorch is
the reference (fastmaml/rl/reference.py), which keeps its graph from product to product. No time is printed of an answer
that is wrong.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.environment import ensure_fair, machine

TURNS, TASKS, TOLERANCE = 3, 20, 1e-5


def main() -> None:
    import numpy as np
    import torch

    from fastmaml.rl import TRPO, GaussianPolicy, MetaPolicy, Navigation2D, Settings

    policy = GaussianPolicy(2, 2, generator=torch.Generator().manual_seed(0))
    meta, trpo, generator = MetaPolicy(policy, Navigation2D(), Settings()), TRPO(), np.random.default_rng(0)
    tasks = meta.environment.sample_tasks(TASKS, generator)
    problem, _ = meta.problem(tasks, generator)
    _check(problem, trpo)
    times: dict[str, list[float]] = {"sampling": [], "ours": [], "eager": []}
    for _ in range(TURNS):
        times["sampling"].append(_timed(lambda: meta.problem(tasks, generator)))
        times["ours"].append(_timed(lambda: trpo.update(problem)))
        times["eager"].append(_timed(lambda: _eager(problem, trpo)))
    _report({name: statistics.median(seconds) for name, seconds in times.items()})


def _check(problem: Any, trpo: Any) -> None:
    """Raises SystemExit unless gradient and curvature product are those of float64."""
    from bench.contest import relative_error

    exact, vector = _reference(problem, double=True), problem.theta
    gradient = problem.gradient(problem.adaptation, problem.advantages)
    product = problem.curvature(0.0)(vector)
    for name, found, wanted in (("gradient", gradient, exact[0]), ("curvature", product, exact[1](vector.double()))):
        error = relative_error(found.double(), wanted)
        print(f"{name:10} relative error {error:.1e} against float64")
        if not error <= TOLERANCE:
            raise SystemExit(f"wrong: the {name}'s error is above {TOLERANCE:.0e}, so no time is printed")


def _reference(problem: Any, double: bool = False) -> tuple[Any, Callable[[Any], Any]]:
    """Surrogate gradient and curvature product by autograd through autograd, in float64 if wanted."""
    import copy

    import torch

    from fastmaml.batch import Samples, TaskBatch
    from fastmaml.plan import Plan
    from fastmaml.rl import reference
    from fastmaml.rl.rollouts import as_samples, kl_samples

    dtype = torch.float64 if double else torch.float32

    def cast(s: Samples) -> Samples:
        return Samples(s.x.to(dtype), s.y.to(dtype), None if s.weights is None else s.weights.to(dtype))

    module = copy.deepcopy(problem.plan.module).to(dtype)
    plan, theta, lr = Plan.of(module, module.loss), problem.theta.to(dtype), problem.inner_lr.values.to(dtype)
    support = cast(problem.supports[0])
    query = cast(as_samples(problem.policy, problem.episodes, problem.advantages))
    divergence = cast(kl_samples(problem.policy, problem.episodes))
    gradient = reference.gradient(plan, theta, lr, TaskBatch(support, query), 1)
    return gradient, reference.curvature(plan, theta, lr, TaskBatch(support, divergence), 1)


def _eager(problem: Any, trpo: Any) -> None:
    """The step of `trpo` by the reference; its first step of the line search is taken to be accepted."""
    import torch

    from fastmaml import engines
    from fastmaml.rl.adaptation import Adaptation
    from fastmaml.rl.curvature import conjugate_gradient

    gradient, product = _reference(problem)
    direction, image = conjugate_gradient(lambda v: product(v) + trpo.damping * v, gradient, trpo.iterations, 1e-10)
    theta = problem.theta - (2 * trpo.kl / (direction @ image)).sqrt() * direction
    engine = engines.get("reference")
    fast, _ = engine.adapt(problem.plan, theta, problem.inner_lr, problem.supports[0], 1)
    outputs = problem.outputs(Adaptation(fast, problem.inner_lr.values, ()))
    problem.surrogate(outputs), problem.kl(outputs), torch.isfinite(theta)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _report(seconds: dict[str, float]) -> None:
    print("; ".join(f"{name}: {value}" for name, value in machine().items()))
    print(f"meta-iteration        {seconds['sampling'] + seconds['ours']:.2f} s")
    print(f"  sampling            {seconds['sampling']:.2f} s, the inner step and the baselines included")
    print(f"  outer update        {seconds['ours']:.2f} s")
    print(f"eager double backward {seconds['eager']:.2f} s, {seconds['eager'] / seconds['ours']:.1f} times as long")


if __name__ == "__main__":
    ensure_fair("bench.rl")  # before torch is imported
    main()
