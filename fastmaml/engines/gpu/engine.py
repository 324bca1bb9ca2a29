"""The Triton kernels as an engine: the whole inner loop of a meta-batch in two or three launches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine, Linearised, MetaGradient
from fastmaml.engines.gpu.fused import blocks_of
from fastmaml.engines.gpu.layered import layers_obstacle, stages_of
from fastmaml.engines.gpu.memory import memory_told
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.kernels.layered import Layered
from fastmaml.kernels.mlp_launch import Data, Launcher
from fastmaml.kernels.mlp_network import MAX_OUTPUTS, obstacle
from fastmaml.plan import InnerLr, Plan

DEVICES = ("cuda", "xpu")
OLDEST = (7, 0)
"""Compute capability of the oldest NVIDIA GPU that Triton compiles for."""

LOSSES = ("mse", "cross_entropy", "gaussian", "categorical")

_PER_UNIT = 8  # programs that a multiprocessor keeps in flight
_PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "bf16"}


class GpuEngine(Engine):
    """The whole batched inner loop in Triton kernels, float32; fully connected networks take two launches.

    Convolutions, and linear layers too wide for one program, go layer by layer, each for all tasks at once.

    Products are IEEE float32 by default. `torch.set_float32_matmul_precision("high")` allows TF32, "medium" bf16
    operands; sums and parameters are float32 always. Convolutions also ask `torch.backends.cudnn.allow_tf32`.
    Nothing waits for the GPU. Results are bitwise the same from run to run on one kind of GPU. Memory grows with K by
    parameter copies alone.
    """

    name = "gpu"
    weighs_tasks = False
    needs_layers = True
    capturable = True

    def __init__(self, devices: tuple[str, ...] = DEVICES) -> None:
        self._devices = devices
        self._launchers: WeakKeyDictionary[Plan, dict[Any, Launcher | Layered]] = WeakKeyDictionary()
        self._masks: WeakKeyDictionary[Plan, dict[torch.device, Tensor]] = WeakKeyDictionary()

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
        if plan.loss_name not in LOSSES:
            return "it knows the losses 'mse', 'cross_entropy', 'gaussian' and 'categorical', not callables"
        if rule is not None and not isinstance(rule, (SecondOrder, FirstOrder)):
            return f"it knows the gradient rules SecondOrder and FirstOrder, not {type(rule).__name__}"
        if plan.num_outputs is not None and plan.num_outputs > MAX_OUTPUTS:
            return f"the network has {plan.num_outputs} outputs, and its losses take at most {MAX_OUTPUTS}"
        return layers_obstacle(plan)

    def data_refusal(self, plan: Plan, samples: Samples) -> str | None:
        weights = samples.weights
        if (
            weights is None
            or not plan.has_batch_norm
            or _in_one_launch(plan, samples.x.shape[1], samples.x.device)
            or bool((weights > 0).all())
        ):
            return None
        return _PADDING

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
        launcher = self._launcher(plan, parameters, support.x)
        with _on(parameters), memory_told(launcher, support.x, steps):
            data = _data(plan, launcher, support)
            return launcher.adapt(_plain(parameters), _plain(inner_lr.values), data, steps)

    def meta_gradient(
        self,
        plan: Plan,
        parameters: Tensor,
        inner_lr: InnerLr,
        batch: TaskBatch,
        steps: int,
        rule: GradientRule,
    ) -> MetaGradient:
        launcher = self._launcher(plan, parameters, batch.support.x, batch.query.x)
        with _on(parameters), memory_told(launcher, batch.support.x, steps, batch.query.x):
            theta, rates = _plain(parameters), _plain(inner_lr.values)
            support, query = _data(plan, launcher, batch.support), _data(plan, launcher, batch.query)
            kept = self._kept(plan, parameters.device)
            found = launcher.meta_gradient(
                theta, rates, support, query, steps, rule.through_steps, inner_lr.learned, kept
            )
        return MetaGradient(found.losses, found.gradient, found.lr_gradient, found.outputs)

    def predict(self, plan: Plan, fast: Tensor, x: Tensor) -> Tensor:
        launcher = self._launcher(plan, fast, x)
        with _on(fast), memory_told(launcher, x, 0):
            return launcher.predict(_plain(fast), _plain(x))

    def hvp(self, plan: Plan, fast: Tensor, support: Samples, vectors: Tensor) -> Tensor:
        launcher = self._launcher(plan, fast, support.x)
        with _on(fast), memory_told(launcher, support.x, 0):
            return launcher.hvp(_plain(fast), _data(plan, launcher, support), _plain(vectors))

    def linearise(self, plan: Plan, fast: Tensor, support: Samples, stationary: bool = False) -> Linearised:
        launcher = self._launcher(plan, fast, support.x)
        if isinstance(launcher, Launcher):
            return super().linearise(plan, fast, support, stationary)
        starts = fast.expand(support.num_tasks, -1).contiguous()
        with _on(fast):
            gradient, product = launcher.linearise(starts, _data(plan, launcher, support))

        def products(vectors: Tensor) -> Tensor:
            with _on(fast):
                return product(vectors.expand_as(starts).contiguous())

        return Linearised(None if stationary else gradient, products)

    def _kept(self, plan: Plan, device: torch.device) -> Tensor | None:
        """[P], 1 where a parameter is meta-learned; None where all are. Made once: it waits for the device."""
        if all(slot.meta_learned for slot in plan.slots):
            return None
        known = self._masks.setdefault(plan, {})
        if device not in known:
            known[device] = plan.only_meta_learned(torch.ones(plan.num_parameters, device=device))
        return known[device]

    def _launcher(self, plan: Plan, like: Tensor, *inputs: Tensor) -> Launcher | Layered:
        """The kernels of a plan for these inputs [T, N, ...], at torch's present precision of products."""
        sample = tuple(inputs[0].shape[2:]) if plan.takes_images else None
        samples = max(x.shape[1] for x in inputs)
        key = (like.device, _precision(like.device, plan.takes_images), sample, samples)
        known = self._launchers.setdefault(plan, {})
        if key not in known:
            known[key] = _launcher(plan, *key)
        return known[key]


def _in_one_launch(plan: Plan, samples: int, device: torch.device) -> bool:
    """Whether one program carries a task of so many samples."""
    if not _barriers_order_memory(device):
        return False
    blocks = blocks_of(plan)
    return not isinstance(blocks, str) and obstacle(blocks, samples) is None


def _barriers_order_memory(device: torch.device) -> bool:
    """Whether a program's threads see, after a barrier, what others have written to global memory before it.

    On NVIDIA GPUs they do (PTX ISA, bar.sync), and under the interpreter. For AMD's Triton 3.6 compiles a barrier that
    waits for shared memory alone, and of Intel's we do not know: there each layer is a launch of its own.
    """
    return device.type in ("cpu", "meta") or (device.type == "cuda" and torch.version.hip is None)


def _launcher(
    plan: Plan, device: torch.device, precision: str, sample: tuple[int, ...] | None, samples: int
) -> Launcher | Layered:
    assert plan.loss_name is not None
    if _in_one_launch(plan, samples, device):
        blocks = blocks_of(plan)
        assert not isinstance(blocks, str)
        return Launcher(blocks, plan.num_parameters, plan.loss_name, precision, _programs(device))
    stages = stages_of(plan, sample or (plan.num_inputs or 0,))
    return Layered(stages, plan.num_parameters, plan.loss_name, precision, _barriers_order_memory(device))


_PADDING = (
    "the weights hold zeros (padding), which the batch norm of its kernels of single layers (convolutions, sets of "
    "more than 128 samples, layers wider than 1024) does not leave out; the engines 'cpu' and 'reference' do"
)


def _precision(device: torch.device, convolutions: bool) -> str:
    """Of products, by torch's switches; ieee where the GPU has no units for another."""
    old = device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0)
    asked = _PRECISIONS[torch.get_float32_matmul_precision()]
    return "ieee" if old or (convolutions and not torch.backends.cudnn.allow_tf32) else asked


def _programs(device: torch.device) -> int:
    if device.type == "cpu":
        return 2  # of Triton's interpreter
    properties = getattr(torch, device.type).get_device_properties(device)
    units = getattr(properties, "multi_processor_count", None) or properties.max_compute_units
    return _PER_UNIT * int(units)


@contextmanager
def _on(tensor: Tensor) -> Iterator[None]:
    """Launches go to the device of the tensor, whichever is current."""
    if tensor.device.type not in DEVICES:
        yield
        return
    with getattr(torch, tensor.device.type).device(tensor.device):
        yield


def _data(plan: Plan, launcher: Launcher | Layered, samples: Samples) -> Data:
    """As the kernels take them. Those of single layers see padding, as zeros; ValueError where that counts."""
    x, y = _plain(samples.x), _plain(samples.y)
    if samples.weights is None:
        return Data(x, y, None)
    weights = _plain(samples.weights)
    if isinstance(launcher, Layered):
        real = weights > 0
        if plan.has_batch_norm and not bool(real.all()):
            raise ValueError(f"weights: {_PADDING}")
        x = torch.where(real.view(*real.shape, *(1,) * (x.dim() - 2)), x, 0)
    return Data(x, y, weights)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous()
