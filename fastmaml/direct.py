"""The meta-gradient put straight into the parameters' .grad, beside autograd, which costs more than a small step."""

from __future__ import annotations

import torch

from fastmaml.batch import TaskBatch
from fastmaml.engines.base import Accumulated
from fastmaml.gradients import GradientRule
from fastmaml.state import State


def accumulate(
    state: State, batch: TaskBatch, steps: int, rule: GradientRule, outputs: bool, overwrite: bool
) -> Accumulated | None:
    """What `meta_loss(batch).backward()` does to the parameters' .grad, in one call of the engine.

    Args:
        overwrite: write over gradients that are there instead of adding to them.
    Returns:
        None, with nothing changed, where autograd has to do it: the engine does not accumulate, a hook waits for a
        gradient, some parameters have gradients and some none, tensors are not plain, or the loss is not finite.
    Raises:
        TypeError, ValueError: as MAML.meta_loss.
    """
    if torch.is_inference_mode_enabled():
        return None
    prepared = state.prepared
    if prepared is not None and batch.support.weights is None and batch.query.weights is None:
        # a batch of the form of one that was admitted needs no more checks: those of numbers are of weights alone
        done = prepared.accumulate(batch, steps, rule, outputs, overwrite)
        if done is not None or prepared.takes(batch):
            return done
    found, batch = state.admit(batch)
    if not found[0].accumulates:
        return None
    if prepared is None or not prepared.takes(batch):
        prepared = found[0].prepare(state.plan, state.parameters, state.like, state.inner_lr.fixed, batch)
        state.prepared = prepared
    return prepared.accumulate(batch, steps, rule, outputs, overwrite)
