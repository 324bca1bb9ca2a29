"""How autograd learns of a meta-gradient that an engine has computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors  # one call for all parameters: a third of split and view


class Computed(NamedTuple):
    """A meta-gradient, and where it belongs.

    gradient: [P]. lr_gradient: of the learned inner lr, None without one. parameters: all of the model's.
    wired: slots of the meta-learned ones. pieces: the engine's own way from (gradient, scale) to `times`, where it has
    one; None of what it cannot do.
    """

    gradient: Tensor
    lr_gradient: Tensor | None
    parameters: Sequence[Tensor]
    wired: Sequence[int]
    pieces: Callable[[Tensor, Tensor], Sequence[Tensor] | None] | None = None

    def times(self, scale: Tensor) -> Sequence[Tensor]:
        """`scale` times the gradient of each input of `MetaLoss`, in new memory."""
        made = None if self.pieces is None else self.pieces(self.gradient, scale)
        if made is not None:
            return made
        pieces: Sequence[Tensor] = _unflatten_dense_tensors(self.gradient * scale, self.parameters)
        if len(self.wired) < len(pieces):
            pieces = [pieces[slot] for slot in self.wired]
        return [*pieces] if self.lr_gradient is None else [*pieces, self.lr_gradient * scale]


class MetaLoss(torch.autograd.Function):
    """apply((loss [], computed), *inputs): the loss, in a graph where `computed` is its derivative.

    The inputs are the meta-learned parameters, then the learned inner lr if there is one.
    """

    @classmethod
    def wire(cls, loss: Tensor, computed: Computed, inputs: Sequence[Tensor]) -> Tensor:
        """`apply`, outside of torch.func's transforms."""
        # Function's own, in Python, looks for what functorch has left behind, at a third of the time of the whole
        wired: Tensor = super(torch.autograd.Function, cls).apply((loss, computed), *inputs)  # type: ignore[misc]
        return wired

    @staticmethod
    def forward(ctx: Any, result: tuple[Tensor, Computed], *inputs: Tensor) -> Tensor:
        loss, ctx.computed = result
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "meta_loss has no second derivative: backward or autograd.grad was called with create_graph=True. "
                "Leave it out"
            )
        ctx.saved_tensors  # noqa: B018 - none are, but asking raises torch's error in a graph that is freed
        return None, *ctx.computed.times(grad_outputs[0])
