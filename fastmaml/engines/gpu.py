"""The Triton kernels as an engine: the whole inner loop of a meta-batch in two or three launches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine, MetaGradient
from fastmaml.engines.gpu_network import blocks_of
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.kernels.mlp_launch import Data, Launcher
from fastmaml.kernels.mlp_network import MAX_ROWS
from fastmaml.plan import InnerLr, Plan

DEVICES = ("cuda", "xpu")
OLDEST = (7, 0)
"""Compute capability of the oldest NVIDIA GPU that Triton compiles for."""

_PER_UNIT = 8  # programs that a multiprocessor keeps in flight
_PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


class GpuEngine(Engine):
    """The whole batched inner loop in Triton kernels, float32; fully connected networks take two launches.

    Products are IEEE float32 by default. `torch.set_float32_matmul_precision("high")` allows TF32, "medium" bf16
    operands; sums and parameters are float32 always. Nothing waits for the GPU. Results are bitwise the same from run
    to run on one kind of GPU. Memory grows with K by parameter copies of the tasks in flight only.
    """

    name = "gpu"
    needs_layers = True
    max_samples = MAX_ROWS

    def __init__(self, devices: tuple[str, ...] = DEVICES) -> None:
        self._devices = devices
        self._launchers: WeakKeyDictionary[Plan, dict[Any, Launcher]] = WeakKeyDictionary()

    def refusal(
        self,
        plan: Plan,
        rule: GradientRule | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        inner_lr: InnerLr | None = None,
    ) -> str | None:
        if device is not None and (unfit := self._unfit(device)) is not None:
            return unfit
        if dtype is not None and dtype != torch.float32:
            return f"it computes in float32, and the parameters are {dtype}"
        if plan.layers is None:
            return plan.obstacle
        if plan.loss_name is None:
            return "it knows the losses 'mse' and 'cross_entropy', not callables"
        if rule is not None and not isinstance(rule, (SecondOrder, FirstOrder)):
            return f"it knows the gradient rules SecondOrder and FirstOrder, not {type(rule).__name__}"
        blocks = blocks_of(plan)
        return blocks if isinstance(blocks, str) else None

    def _unfit(self, device: torch.device) -> str | None:
        if device.type not in self._devices:
            return f"it runs on GPUs, and the parameters are on {device}; call model.cuda()"
        if device.type == "cuda" and torch.version.hip is None:
            found = torch.cuda.get_device_capability(device)
            if found < OLDEST:
                name = torch.cuda.get_device_name(device)
                return (
                    f"its kernels need compute capability {OLDEST[0]}.{OLDEST[1]}, and {name} has {found[0]}.{found[1]}"
                )
        return None

    def adapt(
        self, plan: Plan, parameters: Tensor, inner_lr: InnerLr, support: Samples, steps: int
    ) -> tuple[Tensor, Tensor]:
        with _on(parameters), _memory_told(plan, support, steps):
            data = _data(support)
            return self._launcher(plan, parameters).adapt(_plain(parameters), _plain(inner_lr.values), data, steps)

    def meta_gradient(
        self,
        plan: Plan,
        parameters: Tensor,
        inner_lr: InnerLr,
        batch: TaskBatch,
        steps: int,
        rule: GradientRule,
    ) -> MetaGradient:
        with _on(parameters), _memory_told(plan, batch.support, steps):
            launcher = self._launcher(plan, parameters)
            theta, rates = _plain(parameters), _plain(inner_lr.values)
            support, query = _data(batch.support), _data(batch.query)
            found = launcher.meta_gradient(theta, rates, support, query, steps, rule.through_steps, inner_lr.learned)
        return MetaGradient(found.losses, plan.only_meta_learned(found.gradient), found.lr_gradient, found.outputs)

    def predict(self, plan: Plan, fast: Tensor, x: Tensor) -> Tensor:
        with _on(fast):
            return self._launcher(plan, fast).predict(_plain(fast), _plain(x))

    def hvp(self, plan: Plan, fast: Tensor, support: Samples, vectors: Tensor) -> Tensor:
        with _on(fast):
            return self._launcher(plan, fast).hvp(_plain(fast), _data(support), _plain(vectors))

    def _launcher(self, plan: Plan, like: Tensor) -> Launcher:
        """The kernels of a plan at torch's present precision of products."""
        key = (like.device, _PRECISIONS[torch.get_float32_matmul_precision()])
        known = self._launchers.setdefault(plan, {})
        if key not in known:
            known[key] = _launcher(plan, *key)
        return known[key]


def _launcher(plan: Plan, device: torch.device, precision: str) -> Launcher:
    blocks = blocks_of(plan)
    assert not isinstance(blocks, str), blocks
    assert plan.loss_name is not None
    return Launcher(blocks, plan.num_parameters, plan.loss_name, _able(device, precision), _programs(device))


def _able(device: torch.device, precision: str) -> str:
    """The precision, or ieee where the GPU has no units for it."""
    old = device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0)
    return "ieee" if old else precision


def _programs(device: torch.device) -> int:
    if device.type == "cpu":
        return 2  # of Triton's interpreter
    properties = getattr(torch, device.type).get_device_properties(device)
    units = getattr(properties, "multi_processor_count", None) or properties.max_compute_units
    return _PER_UNIT * int(units)


@contextmanager
def _on(tensor: Tensor) -> Iterator[None]:
    """Launches go to the device of the tensor, whichever is current."""
    if tensor.device.type == "cpu":
        yield
        return
    with getattr(torch, tensor.device.type).device(tensor.device):
        yield


@contextmanager
def _memory_told(plan: Plan, support: Samples, steps: int) -> Iterator[None]:
    """Out of memory says what it was needed for, and what would fit. Nothing is half-written: results are fresh."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        tasks, n = support.x.shape[:2]
        copies = (steps + 4) * plan.num_parameters * 4
        free = torch.cuda.mem_get_info(support.x.device)[0] if support.x.device.type == "cuda" else 0
        fitting = max(1, free // (2 * copies))
        raise torch.OutOfMemoryError(
            f"{error}\nA meta-batch of T={tasks} tasks, N={n} and K={steps} steps keeps {copies / 2**20:.1f} MiB of "
            f"parameter copies for each task in flight; with {free / 2**20:.0f} MiB free, T={fitting} tasks would fit: "
            "take fewer tasks at a time and accumulate gradients, or fewer steps"
        ) from error


def _data(samples: Samples) -> Data:
    weights = None if samples.weights is None else _plain(samples.weights)
    return Data(_plain(samples.x), _plain(samples.y), weights)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()
