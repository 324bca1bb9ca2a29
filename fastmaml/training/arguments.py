"""Checks of the arguments of a Trainer, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastmaml.maml import MAML
from fastmaml.runs.run_state import Stream
from fastmaml.tasks import TaskSource, TaskStream
from fastmaml.training.loop import Validation


def check_counts(**counts: int) -> None:
    """Raises ValueError unless each is an integer of at least 1."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: given {value!r}; allowed are integers from 1")


def check_bounds(**bounds: float | None) -> None:
    """Raises ValueError unless each is None or a positive number."""
    for name, value in bounds.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}: given {value!r}; allowed are positive numbers, or None for no bound")


def check_optimizer(optimizer: Optimizer, maml: MAML) -> None:
    """Raises TypeError for what is no torch optimizer, ValueError where it holds none of the parameters."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: given {type(optimizer).__name__}; allowed is a torch.optim.Optimizer")
    own = {id(parameter) for parameter in maml.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer: holds none of the parameters of maml; make it from maml.parameters()")


def check_scheduler(scheduler: Any, optimizer: Optimizer, validation: Validation | None) -> None:
    """Raises TypeError or ValueError unless it is a scheduler of this optimizer that gets what it steps on."""
    if scheduler is None:
        return
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(f"scheduler: given {type(scheduler).__name__}; allowed is a torch.optim.lr_scheduler")
    if scheduler.optimizer is not optimizer:
        raise ValueError("scheduler: belongs to another optimizer; make it from the one that is given")
    if isinstance(scheduler, ReduceLROnPlateau) and validation is None:
        raise ValueError("scheduler: ReduceLROnPlateau steps on validations; give validation=Validation(source)")


def open_stream(source: TaskSource, meta_batch: int, seed: int) -> Stream:
    """The meta-batches of a run: the source's own stream, or one sample at a time.

    They are drawn on the source's `device`, if it has one, else on the CPU.

    Raises:
        TypeError: where the source can give neither.
    """
    generator = torch.Generator(getattr(source, "device", "cpu")).manual_seed(seed)
    if hasattr(source, "stream"):
        stream: Stream = source.stream(meta_batch, generator)
        return stream
    if not hasattr(source, "sample"):
        raise TypeError(f"source: given {type(source).__name__}; needed is a method sample(num_tasks, generator)")
    return TaskStream(source, meta_batch, generator)


def settings_of(maml: MAML, optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """What must be the same for a resumed run to be the same run, as plain data."""
    return {
        "lr": dict(maml.lr) if isinstance(maml.lr, Mapping) else maml.lr,
        "learn_lr": maml.learn_lr,
        "steps": maml.steps,
        "loss": maml.plan.loss_name,
        "rule": repr(maml.rule),
        "optimizer": type(optimizer).__name__,
        **{f"optimizer {name}": value for name, value in optimizer.defaults.items()},
        "scheduler": None if scheduler is None else type(scheduler).__name__,
    }
