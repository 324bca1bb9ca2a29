"""What the gpu engine does for a problem, counted without a GPU: launches, bytes, and the floors they imply.

Tensors are on torch's meta device, and each launch is noted rather than made, torch's own among them. A launch reads or
writes each map of activations once at least, the weights of its layer, and what its gradient is handed to; moments,
biases and norms' parameters are few and do not count. That is a lower bound: nor do tiles that are read again, mostly
from the L2 cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.operations import necessary
from bench.problem import Problem

PEAKS = {"ieee": 67e12, "tf32": 494e12}
"""Operations a second of an H200 (data sheet): float32 units, TF32 tensor cores without sparsity."""

BANDWIDTH = 4.8e12
"""Bytes a second of an H200 (data sheet)."""

LAUNCH = 1.5e-6
"""Seconds from one launch to the next in a CUDA graph: an assumption, to be measured."""


@dataclass(frozen=True)
class Count:
    """Of one exact second-order meta-gradient."""

    operations: int
    launches: int
    bytes: int

    def floor(self, precision: str) -> float:
        """Seconds below which it cannot be, by the largest of arithmetic, traffic and launches."""
        return max(self.operations / PEAKS[precision], self.bytes / BANDWIDTH, self.launches * LAUNCH)


def count(problem: Problem) -> Count:
    """Counts a problem on the meta device."""
    from fastmaml.engines.gpu import GpuEngine
    from fastmaml.gradients import SecondOrder
    from fastmaml.plan import InnerLr

    plan, batch = problem.plan, problem.batch
    moved = problem.on(torch.device("meta")).batch
    theta = torch.empty(plan.num_parameters, device="meta")
    engine = GpuEngine(devices=("cuda", "meta"))
    with _noting() as (sizes,), mock.patch("fastmaml.engines.gpu.engine._programs", return_value=1056):
        engine.meta_gradient(plan, theta, InnerLr(torch.empty_like(theta)), moved, problem.steps, SecondOrder())
    n, m = batch.support.num_samples, batch.query.num_samples
    sample = tuple(batch.support.x.shape[2:])
    return Count(necessary(plan, batch.num_tasks, n, m, problem.steps, sample), len(sizes), sum(sizes))


@contextmanager
def _noting() -> Iterator[tuple[list[int]]]:
    """Bytes of each launch, in order; nothing runs."""
    from fastmaml.kernels import flat

    sizes: list[int] = []

    def note(kernel: Any, *args: Any, **kwargs: Any) -> None:
        named = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        sizes.append(4 * _numbers(kernel.fn.__name__, named))

    with mock.patch.object(type(flat._sum_kernel), "run", note), _Torch(sizes):
        yield (sizes,)


class _Torch(TorchDispatchMode):
    """Notes what torch itself launches; to make memory or a view is no launch."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self._sizes = sizes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = func.is_view or "empty" in func.__name__ or func.__name__.startswith("detach")
        if isinstance(result, Tensor) and not made:
            self._sizes.append(result.numel() * result.element_size())
        return result


def _numbers(name: str, named: dict[str, Any]) -> int:
    """Numbers that a launch reads and writes at least once."""
    if "NET" in named:  # activations and copies of tasks in flight stay in the caches
        return sum(named[key].numel() for key in ("support_x", "query_x", "sums", "theta") if key in named)
    if "CI" in named:
        return _of_convolution_back(named) if "y_bar" in named else _of_convolution(named)
    if name == "_head_kernel":
        return _of_head(named)
    if name == "_update_kernel":
        parts = zip(*(named["PARTS"][at::6] for at in range(2)), strict=True)
        return int(named["partial"].numel()) + _handed_out(named, sum(end - start for start, end in parts))
    tensors = [value for value in named.values() if isinstance(value, Tensor)]
    if "ACTIVATION" in named:  # parameters and statistics are few
        tensors = [value for value in tensors if value.dim() >= 4]
    return _all_of(*tensors)


def _of_convolution(named: dict[str, Any]) -> int:
    maps = [named["x"], *([named["x_dot"]] if named["PAIRS"] == 2 else [])]
    maps += [named["y_dot"]] if named["TANGENT"] else []
    maps += [named["y"]] if named["MOMENTS"] or not named["TANGENT"] else []
    return _all_of(*maps) + _weights(named) * sum(_copies(named[key]) for key in _operands(named["TANGENT"], named))


def _of_convolution_back(named: dict[str, Any]) -> int:
    maps, weights = [named["y_bar"]], 0
    if named["weight_tiles"]:
        maps += [named["x"], *([named["y_bar2"], named["x2"]] if named["WEIGHT_PAIRS"] == 2 else [])]
        weights += _handed_out(named, _weights(named))
    if named["INPUT_PAIRS"]:
        maps += [named["x_bar"], *([named["y_bar2"]] if named["INPUT_PAIRS"] == 2 else [])]
        operands = ("theta", "direction")[: named["INPUT_PAIRS"]]
        weights += _weights(named) * sum(_copies(named[key]) for key in operands)
    return _all_of(*maps) + weights


def _of_head(named: dict[str, Any]) -> int:
    weights = named["IN"] * named["OUT"]
    maps = [named["x"], *([named["x_dot"]] if named["PAIRS"] == 2 else [])]
    maps += [named["x_bar"]] if named["BELOW"] else []
    operands = ("theta", "direction") if named["TANGENT"] else ("theta",)
    numbers = _all_of(*maps) + weights * sum(_copies(named[key]) for key in operands)
    return numbers + (_handed_out(named, weights) if named["WANTED"] else 0)


def _operands(tangent: bool, named: dict[str, Any]) -> tuple[str, ...]:
    if not tangent:
        return ("theta",)
    return ("theta", "direction") if named["PAIRS"] == 2 else ("direction",)


def _handed_out(named: dict[str, Any], gradient: int) -> int:
    """Of a sink that is handed so many numbers of each task, or of each of its partial sums."""
    tasks = _copies(named["target"]) if named["target"].dim() == 2 else named["target"].numel() // named["SIZE"]
    source = gradient * _copies(named["source"])
    touched = {"plain": 0, "step": source, "gradient": gradient * tasks}
    touched |= {"reverse": source + gradient * tasks, "lr": source + gradient * tasks}
    return gradient * tasks + int(touched[named["MODE"]])


def _weights(named: dict[str, Any]) -> int:
    return int(named["CI"] * named["CO"] * named["K"] ** 2)


def _copies(flat: Tensor) -> int:
    """Of how many tasks a flat vector of parameters is."""
    return flat.shape[0] if flat.dim() == 2 else 1


def _all_of(*tensors: Tensor) -> int:
    """Numbers of all, each tensor once."""
    return sum({id(tensor): tensor.numel() for tensor in tensors}.values())
