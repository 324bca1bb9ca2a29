"""A meta-batch: T tasks stacked, a support set of each to adapt on and a query set to judge on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from fastmaml.samples import Samples, describe, moved
from fastmaml.stacking import are_tasks, one_task, stacked

__all__ = ["Samples", "TaskBatch"]


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """A meta-batch: the support sets [T, N, ...] and the query sets [T, M, ...] of T tasks.

    Args:
        support, query: the samples.
        weights: of the tasks [T], at least 0, not all 0: the loss is the weighted mean over tasks. None weighs all
            alike. The numbers of a task of weight 0 must be finite all the same.

    A DataLoader collates TaskBatches: those of T_i tasks become one of Σ T_i. Of a data set whose items are tasks
    (support_x [N, ...], support_y, query_x, query_y), it makes a meta-batch with collate_fn=TaskBatch.of_tasks.
    """

    support: Samples
    query: Samples
    weights: Tensor | None = None

    @classmethod
    def of(cls, batch: Any) -> TaskBatch:
        """A TaskBatch from a TaskBatch, (support_x, support_y, query_x, query_y), (support, query) as Samples,
        torchmeta's {"train": (x, y), "test": (x, y)}, or a list of tasks as `of_tasks` takes them.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(batch, TaskBatch):
            return batch
        if isinstance(batch, dict) and "train" in batch and "test" in batch:
            return cls(Samples.of(batch["train"], "batch['train']"), Samples.of(batch["test"], "batch['test']"))
        if isinstance(batch, (tuple, list)) and are_tasks(batch):
            return cls.of_tasks(batch)
        if isinstance(batch, (tuple, list)) and len(batch) == 4:
            return cls(Samples(batch[0], batch[1]), Samples(batch[2], batch[3]))
        if isinstance(batch, (tuple, list)) and len(batch) == 2:
            return cls(Samples.of(batch[0], "support"), Samples.of(batch[1], "query"))
        raise TypeError(
            f"batch: given {describe(batch)}; allowed are a TaskBatch, (support_x, support_y, query_x, query_y), "
            '{"train": (x, y), "test": (x, y)}, and a list of tasks (TaskBatch.of_tasks)'
        )

    @classmethod
    def of_tasks(cls, tasks: Iterable[Any], weights: Tensor | None = None) -> TaskBatch:
        """T single tasks, stacked. Those with fewer samples are padded, with samples of weight 0.

        Args:
            tasks: of each (support_x [N, ...], support_y, query_x, query_y), (support, query) with (x, y) or
                (x, y, weights [N]) for each, or {"train": (x, y), "test": (x, y)}; none has a dimension for tasks.
            weights: of the tasks [T], or None.
        Raises:
            TypeError, ValueError: naming the task, what was given, and what is allowed.
        """
        pairs = [one_task(task, f"tasks[{index}]") for index, task in enumerate(tasks)]
        if not pairs:
            raise ValueError("tasks: given none; at least one task is needed")
        support = stacked([support for support, _ in pairs], "support")
        return cls(support, stacked([query for _, query in pairs], "query"), weights)

    @property
    def num_tasks(self) -> int:
        return self.support.num_tasks

    def to(self, *args: Any, non_blocking: bool = False) -> TaskBatch:
        """Moved to a device and / or a floating dtype; labels keep their dtype."""
        weights = None if self.weights is None else moved(self.weights, args, non_blocking)
        support, query = (samples.to(*args, non_blocking=non_blocking) for samples in (self.support, self.query))
        return TaskBatch(support, query, weights)

    def pin_memory(self) -> TaskBatch:
        """In page-locked memory, as a DataLoader with pin_memory=True asks for."""
        weights = None if self.weights is None else self.weights.pin_memory()
        return TaskBatch(self.support.pin_memory(), self.query.pin_memory(), weights)

    def shares(self) -> Tensor | None:
        """The weights of the tasks over their sum [T]; None where all weigh alike."""
        return None if self.weights is None else self.weights / self.weights.sum()

    def check(self) -> None:
        """Raises TypeError or ValueError unless the shapes are those of T tasks; looks at no data."""
        self.support.check("support")
        self.query.check("query")
        if self.support.num_tasks != self.query.num_tasks:
            raise ValueError(
                f"query.x: given {self.query.num_tasks} tasks, but support.x has {self.support.num_tasks}; "
                "both are [T, ...] of the same tasks"
            )


def _collated(batches: Sequence[TaskBatch], *, collate_fn_map: Any = None) -> TaskBatch:
    """One meta-batch of all tasks of several."""
    weights = None
    if any(batch.weights is not None for batch in batches):
        weights = torch.cat([_weights_of(batch) for batch in batches])
    return TaskBatch.of_tasks([task for batch in batches for task in _tasks_of(batch)], weights)


default_collate_fn_map[TaskBatch] = _collated  # where torch's documentation has new types collated


def _weights_of(batch: TaskBatch) -> Tensor:
    return torch.ones(batch.num_tasks) if batch.weights is None else batch.weights


def _tasks_of(batch: TaskBatch) -> Iterable[tuple[Samples, Samples]]:
    batch.check()
    return zip(batch.support.tasks(), batch.query.tasks(), strict=True)
