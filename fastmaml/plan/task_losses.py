"""The loss of each task, from outputs that an engine gave."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmaml.batch import Samples
from fastmaml.plan.plan import Plan


def task_losses(plan: Plan, outputs: Tensor, samples: Samples) -> Tensor:
    """The plan's loss of each task [T], of outputs [T, M, ...] for the samples; padding does not count."""
    if samples.weights is None and plan.loss_name is not None:
        losses: Tensor = torch.vmap(lambda output, y: plan.loss_fn(output, y, None))(outputs, samples.y)
        return losses
    return torch.stack([_task_loss(plan, outputs, samples, task) for task in range(samples.num_tasks)])


def _task_loss(plan: Plan, outputs: Tensor, samples: Samples, task: int) -> Tensor:
    if samples.weights is None:
        return plan.loss_fn(outputs[task], samples.y[task], None)
    kept = samples.weights[task] > 0  # padding may hold anything, even NaN or labels out of range
    return plan.loss_fn(outputs[task][kept], samples.y[task][kept], samples.weights[task][kept])
