"""Small meta-steps by one call of the engine that is prepared once: what else leads to it would take longer."""

from __future__ import annotations

import torch

from fastmaml.batch import TaskBatch
from fastmaml.engines.base import Accumulated, Differentiated, PreparedStep
from fastmaml.gradients import GradientRule
from fastmaml.runtime.state import State


def accumulate(
    state: State, batch: TaskBatch, steps: int, rule: GradientRule, outputs: bool, overwrite: bool
) -> Accumulated | None:
    """What `meta_loss(batch).backward()` does to the parameters' .grad, without autograd.

    Args:
        overwrite: write over gradients that are there instead of adding to them.
    Returns:
        None, with nothing changed, where autograd has to do it: the engine does not accumulate, a hook waits for a
        gradient, some parameters have gradients and some none, tensors are not plain, tasks have weights, or the loss
        is not finite.
    Raises:
        TypeError, ValueError: as MAML.meta_loss.
    """
    if torch.is_inference_mode_enabled() or torch._C._are_functorch_transforms_active():
        return None  # new tensors would be of other kinds
    if batch.weights is not None:
        return None
    step = state.prepared
    if step is not None and batch.support.weights is None and batch.query.weights is None:
        # a batch of the form of one that was admitted needs no more checks: those of numbers are of weights alone
        done = step.accumulate(batch, steps, rule, outputs, overwrite)
        if done is not None or step.takes(batch):
            return done
    step, batch = _prepared(state, batch)
    return None if step is None else step.accumulate(batch, steps, rule, outputs, overwrite)


def meta_gradient(
    state: State, batch: TaskBatch, steps: int, rule: GradientRule, details: bool
) -> Differentiated | None:
    """The meta-gradient for autograd.

    Args:
        details: whether query losses and outputs are wanted.
    Returns:
        None where the engine does not prepare, tensors are not plain, tasks have weights, or the loss is not finite.
    Raises:
        TypeError, ValueError: as MAML.meta_loss.
    """
    if torch.is_inference_mode_enabled() or torch._C._are_functorch_transforms_active():
        return None
    if batch.weights is not None:
        return None
    step = state.prepared
    if step is not None and batch.support.weights is None and batch.query.weights is None:
        done = step.meta_gradient(batch, steps, rule, details)
        if done is not None or step.takes(batch):
            return done
    step, batch = _prepared(state, batch)
    return None if step is None else step.meta_gradient(batch, steps, rule, details)


def _prepared(state: State, batch: TaskBatch) -> tuple[PreparedStep | None, TaskBatch]:
    """The step for batches of this form, where the engine prepares any, and the batch in the model's dtype."""
    found, batch = state.admit(batch)
    if not found[0].accumulates:
        return None, batch
    step = state.prepared
    if step is None or not step.takes(batch):
        step = state.prepared = found[0].prepare(state.plan, state.parameters, state.like, state.inner_lr.fixed, batch)
    return step, batch
