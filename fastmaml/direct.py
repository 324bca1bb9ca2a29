"""The meta-gradient put straight into the parameters' .grad, beside autograd, which costs more than a small step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    wired = state.wired_parameters
    if (
        torch.is_inference_mode_enabled()
        or not _plain(state.parameters, state.plan.sizes, state.like)
        or _hooked(wired)
    ):
        return None
    found, batch = state.admit(batch)
    if not found[0].accumulates:
        return None
    there = [gradient for gradient in [parameter.grad for parameter in wired] if gradient is not None]
    if there and (len(there) < len(wired) or not _plain(there, state.wired_sizes, state.like)):
        return None
    into = there or [torch.empty_like(parameter) for parameter in wired]  # of one vector: twice the time
    done = found[0].accumulate(
        state.plan,
        state.parameters,
        state.by_slot(into),
        bool(there) and not overwrite,
        state.inner_lr.fixed,
        batch,
        steps,
        rule,
        outputs,
    )
    if not done.finite and not done.loss.isfinite():
        return None
    if not there:
        for parameter, gradient in zip(wired, into, strict=True):
            parameter.grad = gradient
    return done


def _plain(tensors: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> bool:
    """Whether they are what their addresses stand for."""
    for tensor, size in zip(tensors, sizes, strict=True):
        if tensor.layout != torch.strided or tensor.numel() != size or tensor.dtype != like.dtype:
            return False
        if not tensor.is_contiguous():
            return False
    return True


def _hooked(parameters: Sequence[Tensor]) -> bool:
    for parameter in parameters:  # noqa: SIM110 - `any` of a generator takes twice the time
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return True
    return False
