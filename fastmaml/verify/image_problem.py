"""An ImageCase made concrete, drawn anew until ReLUs and max-pooling stay clear of their kinks.

Where a ReLU's input is within rounding of zero, or a window's two largest values are within rounding of each other,
two engines may take different branches, and no bound on the derivative holds. (Rows have thresholds that can be moved,
see separated.py; pixels share theirs.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import FirstOrder, SecondOrder
from fastmaml.plan import InnerLr, Plan
from fastmaml.verify.image_cases import NETWORKS, WAYS, ImageCase
from fastmaml.verify.problem import Problem

CLEAR = 5e-6
"""Least distance from a kink, as a share of the largest value there: ten times what float32 makes of it."""

_TRIES = 200
_STEP_SIZE = 0.02


def build_images(case: ImageCase) -> Problem:
    """The float64 problem of a case; the same for the same case.

    Raises:
        RuntimeError: if no draw is clear of all kinks; the case has too many of them.
    """
    generator = torch.Generator().manual_seed(1 + case.seed)
    for _ in range(_TRIES):
        problem = _draw(case, generator)
        if margin(problem) >= CLEAR:
            return problem
    raise RuntimeError(f"{case.name}: none of {_TRIES} draws stays clear of its kinks; make it smaller")


def _draw(case: ImageCase, generator: torch.Generator) -> Problem:
    _, make = NETWORKS[case.network]
    made = make()
    module = (made if isinstance(made, nn.Module) else nn.Sequential(*made)).double()
    _fill(module, generator)
    plan = Plan.of(module, loss=case.loss, adapted=case.adapted)
    parameters = plan.flatten(dict(module.named_parameters())).detach()
    batch = TaskBatch(_samples(case, case.support, generator), _samples(case, case.query, generator))
    vectors = _normal(generator, case.tasks, plan.num_parameters)
    rule = SecondOrder() if case.rule == "second" else FirstOrder()
    return Problem(case, plan, parameters, _inner_lr(case, plan, generator), batch, vectors, rule)


@torch.no_grad()
def _fill(module: nn.Module, generator: torch.Generator) -> None:
    """Weights keep the size of what passes through them; frozen scales of norms stay one."""
    for parameter in module.parameters():
        noise = _normal(generator, *parameter.shape)
        if parameter.dim() > 1:
            parameter.copy_((noise * (2 / parameter[0].numel()) ** 0.5).float())
        elif parameter.requires_grad:
            scale = bool((parameter == 1).all())
            parameter.copy_((1 + 0.2 * noise if scale else 0.1 * noise).float())


def _samples(case: ImageCase, count: int, generator: torch.Generator) -> Samples:
    x = _normal(generator, case.tasks, count, *case.shape)
    y = (
        torch.randint(WAYS, (case.tasks, count), generator=generator)
        if case.loss == "cross_entropy"
        else _normal(generator, case.tasks, count, WAYS)
    )
    return Samples(x, y, _ragged_weights(case, count, generator) if case.ragged else None)


def _ragged_weights(case: ImageCase, count: int, generator: torch.Generator) -> Tensor:
    """[T, N]: a task keeps some samples, of uneven weight; the rest is padding."""
    kept = torch.randint(1 + count // 2, count + 1, (case.tasks, 1), generator=generator)
    weights = 0.5 + torch.rand(case.tasks, count, generator=generator, dtype=torch.float64)
    return (weights * (torch.arange(count) < kept)).float().double()


def _inner_lr(case: ImageCase, plan: Plan, generator: torch.Generator) -> InnerLr:
    learned = case.inner_lr == "element"
    factor = 0.5 + torch.rand(plan.num_parameters, generator=generator, dtype=torch.float64)
    values = (_STEP_SIZE * (factor if learned else torch.ones_like(factor))).float().double()
    for slot in plan.slots:
        if not slot.adapted:
            values[slot.offset : slot.offset + slot.numel] = 0.0
    return InnerLr(values, uniform=not learned, learned=learned)


def margin(problem: Problem) -> float:
    """The least distance from a kink over tasks, samples and inner steps, as a share of the largest value there."""
    reference, theta = ReferenceEngine(), problem.parameters
    found: list[float] = []
    for step in range(problem.case.steps + 1):
        if step > 0:
            theta, _ = reference.adapt(problem.plan, theta, problem.inner_lr, problem.batch.support, 1)
        found.append(_margin_at(problem, theta))
    return min(found)


@torch.no_grad()
def _margin_at(problem: Problem, theta: Tensor) -> float:
    """At parameters [P] or [T, P]."""
    found = [float("inf")]
    module = problem.plan.module
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.ReLU, nn.MaxPool2d))]
    handles = [layer.register_forward_pre_hook(lambda at, x: found.append(_distance(at, x[0]))) for layer in layers]
    for samples in (problem.batch.support, problem.batch.query):
        for task, parameters in enumerate(theta.expand(samples.num_tasks, -1)):
            kept = slice(None) if samples.weights is None else samples.weights[task] > 0
            functional_call(module, problem.plan.unflatten(parameters), (samples.x[task][kept],))
    for handle in handles:
        handle.remove()
    return min(found)


def _distance(layer: nn.Module, x: Tensor) -> float:
    if isinstance(layer, nn.ReLU):
        return (x.abs().min() / x.abs().max().clamp_min(1e-300)).item()  # all zeros: on the kink
    assert isinstance(layer, nn.MaxPool2d)
    assert isinstance(layer.padding, int)
    pad = layer.padding
    padded = functional.pad(x, (pad, pad, pad, pad), value=-1e9)
    windows = functional.unfold(padded.flatten(0, 1)[:, None], layer.kernel_size, stride=layer.stride)
    first, second = windows.topk(2, dim=1).values.unbind(1)
    apart = (first - second)[first != second]  # equal ones are zeros of a ReLU
    return (apart.min() / x.abs().max()).item() if len(apart) else float("inf")


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, exact in float32."""
    return torch.randn(shape, generator=generator, dtype=torch.float64).float().double()
