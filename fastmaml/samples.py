"""The samples of T tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of T tasks, N of each.

    Args:
        x: inputs [T, N, ...].
        y: int64 labels [T, N], or float targets [T, N, outputs].
        weights: [T, N], at least 0; None weighs all samples alike. A sample of weight 0 is padding and has no
            influence at all, so that tasks of different sizes can be stacked.
    """

    x: Tensor
    y: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, samples: Any, name: str = "support") -> Samples:
        """Samples from Samples, (x, y) or (x, y, weights). `name` is what an error calls them."""
        if isinstance(samples, Samples):
            return samples
        if isinstance(samples, (tuple, list)) and len(samples) in (2, 3):
            return cls(*samples)
        raise TypeError(f"{name}: given {describe(samples)}; allowed are Samples, (x, y) and (x, y, weights)")

    @property
    def num_tasks(self) -> int:
        return self.x.shape[0]

    @property
    def num_samples(self) -> int:
        return self.x.shape[1]

    def tasks(self) -> list[Samples]:
        """[T, N, ...] as T times [N, ...]."""
        weights = [None] * self.num_tasks if self.weights is None else self.weights
        return [Samples(*task) for task in zip(self.x, self.y, weights, strict=True)]

    def fields(self) -> list[tuple[str, Tensor]]:
        """Its tensors by name; weights only where there are any."""
        fields = [("x", self.x), ("y", self.y)]
        return fields if self.weights is None else [*fields, ("weights", self.weights)]

    def to(self, *args: Any, non_blocking: bool = False) -> Samples:
        """Moved to a device and / or a floating dtype; labels keep their dtype."""
        weights = None if self.weights is None else moved(self.weights, args, non_blocking)
        return Samples(moved(self.x, args, non_blocking), moved(self.y, args, non_blocking), weights)

    def pin_memory(self) -> Samples:
        """In page-locked memory, as a DataLoader with pin_memory=True asks for."""
        weights = None if self.weights is None else self.weights.pin_memory()
        return Samples(self.x.pin_memory(), self.y.pin_memory(), weights)

    def check(self, name: str = "samples") -> None:
        """Raises TypeError or ValueError unless x, y and weights are tensors of matching shapes with T, N ≥ 1."""
        prefix = f"{name}." if name else ""
        for field, given in self.fields():
            tensor = check_kind(f"{prefix}{field}", given)
            if tensor.dim() < 2:
                raise ValueError(
                    f"{prefix}{field}: given shape {list(tensor.shape)}; allowed is [T, N, ...] "
                    "(tasks, samples, ...): unsqueeze(0) a single task"
                )
            if tensor.shape[:2] != self.x.shape[:2]:
                raise ValueError(
                    f"{prefix}{field}: given shape {list(tensor.shape)}, but {prefix}x has {self.x.shape[0]} tasks of "
                    f"{self.x.shape[1]} samples; all start with the same [T, N]: unsqueeze(0) x and y of a single task"
                )
        if 0 in self.x.shape[:2]:
            raise ValueError(
                f"{prefix}x: given shape {list(self.x.shape)}; at least one task and one sample are needed"
            )
        self._check_weights(name)

    def _check_weights(self, name: str) -> None:
        if self.weights is None:
            return
        if self.weights.dim() != 2 or not self.weights.is_floating_point():
            raise ValueError(
                f"{name}.weights: given {self.weights.dtype} of shape {list(self.weights.shape)}; allowed are "
                "floating-point numbers [T, N], one of each sample"
            )


def check_kind(name: str, tensor: Any) -> Tensor:
    """The tensor. Raises TypeError unless it is an ordinary one, with numbers of its own."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: given {describe(tensor)}; allowed is a torch.Tensor")
    if tensor.is_nested:
        raise TypeError(f"{name}: given a nested tensor; stack ragged tasks with TaskBatch.of_tasks, which pads them")
    if isinstance(tensor, FakeTensor):
        raise TypeError(f"{name}: given a FakeTensor, which holds no numbers; give the tensor that it stands for")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: given a {tensor.layout} tensor; call .to_dense() first")
    return tensor


def moved(tensor: Tensor, args: tuple[Any, ...], non_blocking: bool) -> Tensor:
    """`tensor.to`, but for the dtype of what is no floating-point number."""
    if not tensor.is_floating_point():
        args = tuple(arg for arg in args if not isinstance(arg, torch.dtype))
    result: Tensor = tensor.to(*args, non_blocking=non_blocking) if args else tensor  # type: ignore[call-overload]
    return result


def describe(value: Any) -> str:
    """What a value is, in an error."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, dict):
        return f"a dict with keys {list(value)}"
    return type(value).__name__
