"""The meta-step as one opaque op, which is how torch.compile knows it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch


class Owner(Protocol):
    """What the op asks of the MAML that a compiled step belongs to."""

    def computed(
        self, parameters: Sequence[Tensor], inner_lr: Tensor | None, batch: TaskBatch, steps: int, alone: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """loss [], gradient [P], gradient of the learned inner lr, task losses [T], outputs [T, M, ...]."""

    def learned_slots(self) -> list[int]:
        """Indices of the parameters that get a gradient."""

    def output_shape(self, query_x: Tensor) -> tuple[int, ...]:
        """Shape of one sample's output, without running anything."""


_owners: WeakValueDictionary[int, Owner] = WeakValueDictionary()
_handles = count(1)


def register(owner: Owner) -> int:
    """A number by which compiled code finds `owner` again, as long as someone else keeps it alive."""
    handle = next(_handles)
    _owners[handle] = owner
    return handle


@torch.library.custom_op(
    "fastmaml::meta_loss",
    mutates_args=(),
    schema="(Tensor[] parameters, Tensor? inner_lr, Tensor support_x, Tensor support_y, Tensor? support_weights, "
    "Tensor query_x, Tensor query_y, Tensor? query_weights, Tensor? task_weights, int handle, int steps, "
    "bool details, bool alone) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def meta_loss(
    parameters: Sequence[Tensor],
    inner_lr: Tensor | None,
    support_x: Tensor,
    support_y: Tensor,
    support_weights: Tensor | None,
    query_x: Tensor,
    query_y: Tensor,
    query_weights: Tensor | None,
    task_weights: Tensor | None,
    handle: int,
    steps: int,
    details: bool,
    alone: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The meta-step as one opaque op, for torch.compile.

    Args:
        parameters: all of the model's. inner_lr: the learned inner lr. handle: from `register`.
        details: whether the outputs are wanted.
        alone: whether the caller brings the gradients of several processes together.
    Returns:
        loss [], gradient [P], gradient of the inner lr, task losses [T], outputs [T, M, ...]; [0] for what is not
        there. Only the loss is differentiable.
    """
    support, query = Samples(support_x, support_y, support_weights), Samples(query_x, query_y, query_weights)
    batch = TaskBatch(support, query, task_weights)
    loss, gradient, lr_gradient, task_losses, outputs = _owner(handle).computed(
        parameters, inner_lr, batch, steps, alone
    )
    nothing = loss.new_empty(0)
    return (
        loss,
        gradient,
        nothing if lr_gradient is None else lr_gradient,
        task_losses,
        outputs if details else loss.new_empty(0),
    )


def _owner(handle: int) -> Owner:
    owner = _owners.get(int(handle))
    if owner is None:
        raise RuntimeError("the MAML that this compiled step was made for no longer exists; compile the step anew")
    return owner


@meta_loss.register_fake
def _fake(
    parameters: Sequence[Tensor],
    inner_lr: Tensor | None,
    support_x: Tensor,
    support_y: Tensor,
    support_weights: Tensor | None,
    query_x: Tensor,
    query_y: Tensor,
    query_weights: Tensor | None,
    task_weights: Tensor | None,
    handle: int,
    steps: int,
    details: bool,
    alone: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    first = parameters[0]
    outputs = (*query_x.shape[:2], *_owner(handle).output_shape(query_x)) if details else (0,)
    return (
        first.new_empty(()),
        first.new_empty(sum(parameter.numel() for parameter in parameters)),
        first.new_empty(0) if inner_lr is None else torch.empty_like(inner_lr),
        first.new_empty(query_x.shape[0]),
        first.new_empty(outputs),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    parameters, inner_lr, *_, handle, _, _, _ = inputs
    _, gradient, lr_gradient, _, _ = output
    ctx.shapes = [parameter.shape for parameter in parameters]
    ctx.learned = set(_owner(handle).learned_slots())
    ctx.learns_lr = inner_lr is not None
    ctx.save_for_backward(gradient, lr_gradient)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_loss: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    gradient, lr_gradient = ctx.saved_tensors
    pieces = (gradient * grad_loss).split([shape.numel() for shape in ctx.shapes])
    gradients = [
        piece.reshape(shape) if slot in ctx.learned else None
        for slot, (piece, shape) in enumerate(zip(pieces, ctx.shapes, strict=True))
    ]
    return (gradients, lr_gradient * grad_loss if ctx.learns_lr else None, *[None] * 11)


meta_loss.register_autograd(_backward, setup_context=_setup_context)
