"""A Case made concrete: module, parameters, tasks and vectors, the same for the same case."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.plan import InnerLr, Plan
from fastmaml.verify.cases import Case
from fastmaml.verify.image_cases import ImageCase
from fastmaml.verify.separated import separate

_SPREAD = {"relu": 0.05, "tanh": 1.0}  # of a cluster; the clusters' centres are about 1 apart
_MAX_LR = {"relu": 0.02, "tanh": 0.05}


@dataclass(frozen=True)
class Problem:
    """What an engine is given for a case, in one dtype.

    parameters: [P]; vectors: [T, P], the directions of the Hessian-vector products.
    """

    case: Case | ImageCase
    plan: Plan
    parameters: Tensor
    inner_lr: InnerLr
    batch: TaskBatch
    vectors: Tensor
    rule: GradientRule

    def to(self, dtype: torch.dtype) -> Problem:
        """The same numbers in another floating dtype; every one of them is exact in float32."""
        return replace(
            self,
            parameters=self.parameters.to(dtype),
            inner_lr=replace(self.inner_lr, values=self.inner_lr.values.to(dtype)),
            batch=self.batch.to(dtype),
            vectors=self.vectors.to(dtype),
        )


def build_rows(case: Case) -> Problem:
    """The float64 problem of a case; the same for the same case."""
    generator = torch.Generator().manual_seed(1 + case.seed)
    module = _network(case, generator)
    batch = _batch(case, generator)
    if case.activation == "relu":
        separate(module, batch, partial(_normal, generator), _dead_units(case, generator))
    plan = Plan.of(module, loss=case.loss, adapted=case.adapted)
    parameters = plan.flatten(dict(module.named_parameters())).detach()
    vectors = _normal(generator, case.tasks, plan.num_parameters)
    rule = SecondOrder() if case.rule == "second" else FirstOrder()
    return Problem(case, plan, parameters, _inner_lr(case, plan, generator), batch, vectors, rule)


def _network(case: Case, generator: torch.Generator) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    last = len(case.widths) - 2
    for index, (inputs, outputs) in enumerate(zip(case.widths, case.widths[1:], strict=False)):
        layers[f"linear{index}"] = nn.Linear(inputs, outputs, bias=case.bias, dtype=torch.float64)
        if index == last:
            break
        if case.norm != "none":
            layers[f"norm{index}"] = _batch_norm(case, outputs)
        layers[f"act{index}"] = nn.ReLU() if case.activation == "relu" else nn.Tanh()
    module = nn.Sequential(layers)
    _fill(case, module, generator)
    return module


def _batch_norm(case: Case, features: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(features, affine=case.norm != "plain", track_running_stats=False, dtype=torch.float64)
    if case.norm == "shift":
        norm.weight.requires_grad_(False)
    return norm


@torch.no_grad()
def _fill(case: Case, module: nn.Module, generator: torch.Generator) -> None:
    gain = 20.0 if case.regime == "saturated" else 1.0
    for name, parameter in module.named_parameters():
        if name.startswith("linear") and parameter.dim() == 2:
            scale = gain if name != f"linear{len(case.widths) - 2}.weight" else 1.0
            parameter.copy_(scale * _normal(generator, *parameter.shape) / parameter.shape[1] ** 0.5)
        elif name.startswith("norm") and name.endswith("weight") and case.norm == "affine":
            parameter.copy_(1.0 + 0.2 * _normal(generator, *parameter.shape))
        elif name.endswith("bias"):
            parameter.copy_(0.1 * _normal(generator, *parameter.shape))
        parameter.copy_(parameter.float())  # exact in float32


def _batch(case: Case, generator: torch.Generator) -> TaskBatch:
    clusters = 2 if case.norm == "plain" else 3  # without a threshold to move, zero must lie between two
    centres = _normal(generator, clusters, case.widths[0])
    centres[:, 0] = torch.linspace(-1.5, 1.5, clusters)
    return TaskBatch(_samples(case, case.support, centres, generator), _samples(case, case.query, centres, generator))


def _samples(case: Case, count: int, centres: Tensor, generator: torch.Generator) -> Samples:
    member = torch.arange(count) % len(centres)  # every task alike, so that batch statistics are alike too
    x = centres[member] + _SPREAD[case.activation] * _normal(generator, case.tasks, count, case.widths[0])
    # [T, N, inputs]
    weights = _ragged_weights(case, count, generator) if case.ragged else None
    return Samples(_exact(x), _targets(case, count, generator), weights)


def _targets(case: Case, count: int, generator: torch.Generator) -> Tensor:
    if case.loss == "cross_entropy":
        return torch.randint(case.widths[-1], (case.tasks, count), generator=generator)
    return _normal(generator, case.tasks, count, case.widths[-1])


def _ragged_weights(case: Case, count: int, generator: torch.Generator) -> Tensor:
    """[T, N]: a task keeps some samples, of uneven weight; the rest is padding. Batch norm keeps four."""
    fewest = min(count, 1 if case.norm == "none" else 4)
    kept = torch.randint(fewest, count + 1, (case.tasks, 1), generator=generator)
    weights = 0.5 + torch.rand(case.tasks, count, generator=generator, dtype=torch.float64)
    return _exact(weights * (torch.arange(count) < kept))


def _inner_lr(case: Case, plan: Plan, generator: torch.Generator) -> InnerLr:
    learned = case.inner_lr == "element"
    factor = 0.5 + torch.rand(plan.num_parameters, generator=generator, dtype=torch.float64)
    values = _exact(_step_size(case) * (factor if learned else torch.ones_like(factor)))
    for slot in plan.slots:
        if not slot.adapted:
            values[slot.offset : slot.offset + slot.numel] = 0.0
    return InnerLr(values, uniform=not learned, learned=learned)


def _step_size(case: Case) -> float:
    """Small enough that samples stay on their side of every kink through all the steps."""
    if case.activation == "tanh":
        return _MAX_LR["tanh"]
    return min(_MAX_LR["relu"], 0.4 / max(case.widths)) / case.steps


def _dead_units(case: Case, generator: torch.Generator) -> Callable[[int, int], Tensor]:
    """Which units of a hidden layer shall never fire."""

    def is_dead(layer: int, features: int) -> Tensor:
        if case.regime == "dead":
            return torch.rand(features, generator=generator) < 1 / 3
        whole = case.regime == "dead layer" and layer == (len(case.widths) - 2) // 2
        return torch.full((features,), whole)

    return is_dead


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return _exact(torch.randn(shape, generator=generator, dtype=torch.float64))


def _exact(values: Tensor) -> Tensor:
    """Rounded to float32, held in float64."""
    return values.float().double()
