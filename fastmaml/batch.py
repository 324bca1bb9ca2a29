"""T tasks stacked: a support set to adapt on and a query set to judge on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
        raise TypeError(f"{name}: given {_describe(samples)}; allowed are Samples, (x, y) and (x, y, weights)")

    @property
    def num_tasks(self) -> int:
        return self.x.shape[0]

    @property
    def num_samples(self) -> int:
        return self.x.shape[1]

    def to(self, *args: Any) -> Samples:
        """Moved to a device and / or a floating dtype; labels keep their dtype."""
        weights = None if self.weights is None else _moved(self.weights, args)
        return Samples(_moved(self.x, args), _moved(self.y, args), weights)

    def check(self, name: str = "samples") -> None:
        """Raises TypeError or ValueError unless x, y and weights are tensors of matching shapes with T, N ≥ 1."""
        prefix = f"{name}." if name else ""
        for field, tensor in (("x", self.x), ("y", self.y), ("weights", self.weights)):
            if tensor is None and field == "weights":
                continue
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{prefix}{field}: given {_describe(tensor)}; allowed is a torch.Tensor")
            if tensor.layout != torch.strided:
                raise TypeError(f"{prefix}{field}: given a {tensor.layout} tensor; call .to_dense() first")
            if tensor.dim() < 2:
                raise ValueError(
                    f"{prefix}{field}: given shape {list(tensor.shape)}; allowed is [T, N, ...] "
                    "(tasks, samples, ...): unsqueeze(0) a single task"
                )
            if tensor.shape[:2] != self.x.shape[:2]:
                raise ValueError(
                    f"{prefix}{field}: given shape {list(tensor.shape)}, but {prefix}x has {self.x.shape[0]} tasks of "
                    f"{self.x.shape[1]} samples; all start with the same [T, N]"
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


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """A meta-batch: the support sets [T, N, ...] and the query sets [T, M, ...] of T tasks."""

    support: Samples
    query: Samples

    @classmethod
    def of(cls, batch: Any) -> TaskBatch:
        """A TaskBatch from a TaskBatch, (support_x, support_y, query_x, query_y), (support, query) as Samples,
        or torchmeta's {"train": (x, y), "test": (x, y)}.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(batch, TaskBatch):
            return batch
        if isinstance(batch, dict) and "train" in batch and "test" in batch:
            return cls(Samples.of(batch["train"], "batch['train']"), Samples.of(batch["test"], "batch['test']"))
        if isinstance(batch, (tuple, list)) and len(batch) == 4:
            return cls(Samples(batch[0], batch[1]), Samples(batch[2], batch[3]))
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return cls(Samples.of(batch[0], "support"), Samples.of(batch[1], "query"))
        raise TypeError(
            f"batch: given {_describe(batch)}; allowed are a TaskBatch, (support_x, support_y, query_x, query_y) "
            'and {"train": (x, y), "test": (x, y)}'
        )

    @property
    def num_tasks(self) -> int:
        return self.support.num_tasks

    def to(self, *args: Any) -> TaskBatch:
        """Moved to a device and / or a floating dtype; labels keep their dtype."""
        return TaskBatch(self.support.to(*args), self.query.to(*args))

    def check(self) -> None:
        """Raises TypeError or ValueError unless the shapes are those of T tasks; looks at no data."""
        self.support.check("support")
        self.query.check("query")
        if self.support.num_tasks != self.query.num_tasks:
            raise ValueError(
                f"query.x: given {self.query.num_tasks} tasks, but support.x has {self.support.num_tasks}; "
                "both are [T, ...] of the same tasks"
            )


def _moved(tensor: Tensor, args: tuple[Any, ...]) -> Tensor:
    if not tensor.is_floating_point():
        args = tuple(arg for arg in args if not isinstance(arg, torch.dtype))
    return tensor.to(*args) if args else tensor


def _describe(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, dict):
        return f"a dict with keys {list(value)}"
    return type(value).__name__
