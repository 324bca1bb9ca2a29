"""Small meta-steps by one call of the engine that is prepared once: what else leads to it would take longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from fastmaml.batch import TaskBatch
from fastmaml.engines.base import Accumulated, Differentiated, PreparedStep
from fastmaml.gradients import GradientRule
from fastmaml.state import State

Result = TypeVar("Result")


def accumulate(
    state: State, batch: TaskBatch, steps: int, rule: GradientRule, outputs: bool, overwrite: bool
) -> Accumulated | None:
    """What `meta_loss(batch).backward()` does to the parameters' .grad, without autograd.

    Args:
        overwrite: write over gradients that are there instead of adding to them.
    Returns:
        None, with nothing changed, where autograd has to do it: the engine does not accumulate, a hook waits for a
        gradient, some parameters have gradients and some none, tensors are not plain, or the loss is not finite.
    Raises:
        TypeError, ValueError: as MAML.meta_loss.
    """
    return _run(state, batch, lambda step, admitted: step.accumulate(admitted, steps, rule, outputs, overwrite))


def meta_gradient(
    state: State, batch: TaskBatch, steps: int, rule: GradientRule, details: bool
) -> Differentiated | None:
    """The meta-gradient for autograd.

    Args:
        details: whether query losses and outputs are wanted.
    Returns:
        None where the engine does not prepare, tensors are not plain, or the loss is not finite.
    Raises:
        TypeError, ValueError: as MAML.meta_loss.
    """
    return _run(state, batch, lambda step, admitted: step.meta_gradient(admitted, steps, rule, details))


def _run(state: State, batch: TaskBatch, verb: Callable[[PreparedStep, TaskBatch], Result | None]) -> Result | None:
    """The verb on the step for such batches; None also where there is none."""
    if torch.is_inference_mode_enabled() or torch._C._are_functorch_transforms_active():
        return None  # new tensors would be of other kinds
    prepared = state.prepared
    if prepared is not None and batch.support.weights is None and batch.query.weights is None:
        # a batch of the form of one that was admitted needs no more checks: those of numbers are of weights alone
        done = verb(prepared, batch)
        if done is not None or prepared.takes(batch):
            return done
    found, batch = state.admit(batch)
    if not found[0].accumulates:
        return None
    if prepared is None or not prepared.takes(batch):
        prepared = found[0].prepare(state.plan, state.parameters, state.like, state.inner_lr.fixed, batch)
        state.prepared = prepared
    return verb(prepared, batch)
