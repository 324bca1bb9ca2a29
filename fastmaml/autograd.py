"""How autograd learns of a meta-gradient that an engine has computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _unflatten_dense_tensors  # one call for all parameters: a third of split and view


class Computed(NamedTuple):
    """A meta-gradient, and where it belongs.

    gradient: [P]. lr_gradient: of the learned inner lr, None without one. parameters: all of the model's.
    wired: slots of the meta-learned ones.
    """

    gradient: Tensor
    lr_gradient: Tensor | None
    parameters: Sequence[Tensor]
    wired: Sequence[int]

    def pieces(self, scale: Tensor | None = None) -> list[Tensor]:
        """The gradient of each input of `MetaLoss`: as it is, or in new memory times `scale`."""
        flat, lr_gradient = self.gradient, self.lr_gradient
        if scale is not None:
            flat, lr_gradient = flat * scale, None if lr_gradient is None else lr_gradient * scale
        pieces: Sequence[Tensor] = _unflatten_dense_tensors(flat, self.parameters)
        if len(self.wired) < len(pieces):
            pieces = [pieces[slot] for slot in self.wired]
        return [*pieces] if lr_gradient is None else [*pieces, lr_gradient]


class MetaLoss(torch.autograd.Function):
    """apply(loss [], computed, *inputs): the loss, in a graph where `computed` is its derivative.

    The inputs are the meta-learned parameters, then the learned inner lr if there is one.
    """

    @classmethod
    def wire(cls, loss: Tensor, computed: Computed, inputs: Sequence[Tensor]) -> Tensor:
        """`apply`, without its search for torch.func's wrappers where there are none."""
        if torch._C._are_functorch_transforms_active():
            raise RuntimeError("meta_loss cannot be transformed by torch.func; use backward() or torch.autograd.grad")
        wired: Tensor = super(torch.autograd.Function, cls).apply((loss,), computed, *inputs)  # type: ignore[misc]
        return wired

    @staticmethod
    def forward(ctx: Any, loss: tuple[Tensor], computed: Computed, *inputs: Tensor) -> Tensor:
        ctx.computed, ctx.inputs = computed, inputs
        return loss[0].as_subclass(LossTensor)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "meta_loss has no second derivative: backward or autograd.grad was called with create_graph=True. "
                "Leave it out"
            )
        if ctx.computed is None:
            raise RuntimeError(
                "backward() of this meta_loss has been called, and its gradient given away; call the first one with "
                "retain_graph=True, or meta_loss again"
            )
        return None, None, *ctx.computed.pieces(grad_outputs[0])


class LossTensor(Tensor):
    """A loss whose `backward()` writes the gradients itself where autograd would do nothing else.

    Of one meta-step of a small network, autograd's engine would take half of the time that is not the kernel's. It
    runs as ever wherever it has more to do: arguments, hooks, gradients to add to, gradients to send elsewhere.
    Whatever is computed from the loss is an ordinary tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """As torch.Tensor.backward."""
        node: Any = self.grad_fn  # another one after loss.add_(...)
        plain = gradient is None and not create_graph and inputs is None and type(node) is _NODE
        if (
            plain
            and not self._backward_hooks
            and not self.retains_grad
            and node.computed is not None
            and _only_written(node.inputs)
        ):
            _write(node, bool(retain_graph))
        else:
            super().backward(gradient, retain_graph, create_graph, inputs)  # type: ignore[no-untyped-call]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().__reduce_ex__(protocol)  # saved as a plain tensor, which loads without this class


_NODE = MetaLoss._backward_cls  # type: ignore[attr-defined]


def _write(node: Any, retain: bool) -> None:
    """The gradients into the inputs of `MetaLoss`; `node` keeps nothing unless it is to be retained."""
    pieces = node.computed.pieces(_one(node.computed.gradient) if retain else None)
    if not retain:
        node.computed = None
    for target, piece in zip(node.inputs, pieces, strict=True):
        target.grad = piece


def _one(like: Tensor) -> Tensor:
    return torch.ones((), dtype=like.dtype, device=like.device)


def _only_written(targets: Sequence[Any]) -> bool:
    """Whether autograd would do nothing to these but write their first gradient."""
    for target in targets:
        if not target.is_leaf or target.grad is not None:
            return False
        if target._backward_hooks or target._post_accumulate_grad_hooks:
            return False
    # DistributedDataParallel hooks into autograd's nodes, where nothing can see it
    return not torch.is_anomaly_enabled() and not (dist.is_available() and dist.is_initialized())
