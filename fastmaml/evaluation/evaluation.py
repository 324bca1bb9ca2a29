"""How well a network adapts: loss and accuracy on test tasks at each number of inner steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fastmaml.batch import TaskBatch
from fastmaml.evaluation.metrics import mean_ci95, task_accuracies
from fastmaml.maml import MAML
from fastmaml.plan.task_losses import task_losses
from fastmaml.tasks import TaskSource


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Query losses and accuracies of N tasks after 0 … S inner steps.

    Args:
        task_losses: [S + 1, N], float64 on the CPU.
        task_accuracies: [S + 1, N] from 0 to 1; None for regression.
    """

    task_losses: Tensor
    task_accuracies: Tensor | None = None

    @property
    def steps(self) -> list[int]:
        """The numbers of inner steps, 0 … S."""
        return list(range(len(self.task_losses)))

    @property
    def tasks(self) -> int:
        """N."""
        return self.task_losses.shape[1]

    @property
    def loss(self) -> Tensor:
        """Mean over tasks [S + 1]."""
        return self._loss[0]

    @property
    def loss_ci95(self) -> Tensor:
        """Half width of the 95% confidence interval of the mean [S + 1]."""
        return self._loss[1]

    @property
    def accuracy(self) -> Tensor | None:
        """Mean over tasks [S + 1], from 0 to 1; None for regression."""
        return self._accuracy[0] if self._accuracy else None

    @property
    def accuracy_ci95(self) -> Tensor | None:
        """Half width of the 95% confidence interval of the mean [S + 1]; None for regression."""
        return self._accuracy[1] if self._accuracy else None

    @cached_property
    def _loss(self) -> tuple[Tensor, Tensor]:
        return mean_ci95(self.task_losses)

    @cached_property
    def _accuracy(self) -> tuple[Tensor, Tensor] | None:
        return None if self.task_accuracies is None else mean_ci95(self.task_accuracies)

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each number of inner steps: steps, loss, loss_ci95, accuracy, accuracy_ci95 (or None)."""
        columns = {
            "loss": self.loss,
            "loss_ci95": self.loss_ci95,
            "accuracy": self.accuracy,
            "accuracy_ci95": self.accuracy_ci95,
        }
        return [
            {"steps": step, **{name: None if c is None else c[step].item() for name, c in columns.items()}}
            for step in self.steps
        ]

    def __str__(self) -> str:
        return "\n".join([f"{self.tasks} tasks, mean ± 95% confidence interval", *map(_line, self.rows())])


def evaluate(
    maml: MAML,
    source: TaskSource,
    *,
    tasks: int = 600,
    steps: int | None = None,
    meta_batch: int = 25,
    seed: int = 0,
) -> Evaluation:
    """Adapts to test tasks and measures the query loss and accuracy before and after every inner step.

    The tasks are the same for the same source, `tasks`, `meta_batch` and `seed`, whatever the network. The model
    is used in its present mode and is left as it is.

    Args:
        tasks: N, at least 2; the paper takes 600.
        steps: S, the most inner steps; the steps of `maml` if None. 0 measures the initialisation alone.
        meta_batch: tasks adapted at a time.
        seed: of the tasks.
    Raises:
        ValueError: for a count out of range, and for tasks with weights.
    """
    steps = maml.steps if steps is None else steps
    for name, value, least in (("tasks", tasks, 2), ("steps", steps, 0), ("meta_batch", meta_batch, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: given {value!r}; allowed are integers from {least}")
    generator, parameter = torch.Generator().manual_seed(seed), next(maml.parameters())
    parts = [
        _evaluate_batch(maml, placed(source.sample(min(meta_batch, tasks - done), generator), parameter), steps)
        for done in range(0, tasks, meta_batch)
    ]
    losses, accuracies = zip(*parts, strict=True)
    known = None if accuracies[0] is None else torch.cat(accuracies, dim=1)
    return Evaluation(torch.cat(losses, dim=1), known)


def placed(batch: Any, parameter: Tensor) -> TaskBatch:
    """The batch as a TaskBatch on the device and in the floating dtype of a parameter."""
    batch = TaskBatch.of(batch)
    x = batch.support.x
    if x.device == parameter.device and (x.dtype == parameter.dtype or not x.is_floating_point()):
        return batch
    return batch.to(parameter.device, parameter.dtype)


def _evaluate_batch(maml: MAML, batch: TaskBatch, steps: int) -> tuple[Tensor, Tensor | None]:
    """Query losses and accuracies [S + 1, T]."""
    if batch.weights is not None:
        raise ValueError("source: gives weights of tasks, but evaluation weighs all tasks alike; leave them out")
    losses, accuracies = [], []
    for adapted in maml.adapt_steps(batch.support, steps):
        outputs = adapted(batch.query.x)
        losses.append(task_losses(maml.plan, outputs, batch.query).double().cpu())
        accuracies.append(task_accuracies(outputs, batch.query))
    known = [accuracy.double().cpu() for accuracy in accuracies if accuracy is not None]
    return torch.stack(losses), torch.stack(known) if known else None


def _line(row: dict[str, Any]) -> str:
    loss = f"{row['steps']:4d} steps   loss {row['loss']:.4f} ± {row['loss_ci95']:.4f}"
    if row["accuracy"] is None:
        return loss
    return f"{loss}   accuracy {row['accuracy']:.2%} ± {row['accuracy_ci95']:.2%}"
