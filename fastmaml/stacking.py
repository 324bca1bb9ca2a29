"""Single tasks, stacked to T tasks; those with fewer samples are padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmaml.samples import Samples, check_kind, describe


def are_tasks(items: Sequence[Any]) -> bool:
    """Whether a list is of single tasks, rather than (support, query) or tensors."""
    if not items or not all(isinstance(item, (tuple, list, dict)) for item in items):
        return False
    return len(items) != 2 or any(isinstance(item, dict) or len(item) == 4 for item in items)


def one_task(task: Any, name: str) -> tuple[Samples, Samples]:
    """Its samples [N, ...], without a dimension for tasks."""
    if isinstance(task, dict) and "train" in task and "test" in task:
        task = task["train"], task["test"]
    if isinstance(task, (tuple, list)) and len(task) == 4:
        task = task[:2], task[2:]
    if not (isinstance(task, (tuple, list)) and len(task) == 2):
        raise TypeError(
            f"{name}: given {describe(task)}; allowed are (support_x, support_y, query_x, query_y), (support, query) "
            'and {"train": (x, y), "test": (x, y)}'
        )
    support, query = Samples.of(task[0], f"{name}.support"), Samples.of(task[1], f"{name}.query")
    _check_one(support, f"{name}.support")
    _check_one(query, f"{name}.query")
    return support, query


def _check_one(samples: Samples, name: str) -> None:
    for field, given in samples.fields():
        tensor = check_kind(f"{name}.{field}", given)
        if tensor.dim() < 1 or len(tensor) != len(samples.x) or len(tensor) == 0:
            raise ValueError(
                f"{name}.{field}: given shape {list(tensor.shape)}; allowed is [N, ...] with the same N ≥ 1 in x, y "
                "and weights"
            )


def stacked(tasks: Sequence[Samples], name: str) -> Samples:
    """[N_i, ...] as [T, max N_i, ...]; weights where some are given, or are needed for padding."""
    counts = [len(samples.x) for samples in tasks]
    x, y = (
        _padded([samples.x for samples in tasks], f"{name}.x"),
        _padded([samples.y for samples in tasks], f"{name}.y"),
    )
    if len(set(counts)) == 1 and all(samples.weights is None for samples in tasks):
        return Samples(x, y)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    weights = [
        torch.ones(count, dtype=dtype, device=x.device) if samples.weights is None else samples.weights
        for samples, count in zip(tasks, counts, strict=True)
    ]
    return Samples(x, y, _padded(weights, f"{name}.weights"))


def _padded(tensors: Sequence[Tensor], name: str) -> Tensor:
    """[N_i, ...] as [T, max N_i, ...], zero where there is none."""
    first, longest = tensors[0], max(map(len, tensors))
    for index, tensor in enumerate(tensors):
        if (tensor.shape[1:], tensor.dtype, tensor.device) != (first.shape[1:], first.dtype, first.device):
            raise ValueError(
                f"tasks[{index}].{name}: given {tensor.dtype} {list(tensor.shape)} on {tensor.device}, but that of "
                f"tasks[0] is {first.dtype} {list(first.shape)} on {first.device}; tasks may differ in their number of "
                "samples alone"
            )
    if all(len(tensor) == longest for tensor in tensors):
        return torch.stack([*tensors])
    padded = first.new_zeros(len(tensors), longest, *first.shape[1:])
    for index, tensor in enumerate(tensors):
        padded[index, : len(tensor)] = tensor
    return padded
