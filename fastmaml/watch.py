"""Noticing that a model has changed."""

from __future__ import annotations

from typing import Any

from torch import nn


class ModelWatch:
    """Notices, at two microseconds a look, that a model's mode, parameters, children or hooks are others than before.

    The tensors' dtype and device are left to the caller, who sees them in passing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = list(model.modules())
        self.places = [(m._parameters, name) for m in self.modules for name in m._parameters]
        self.children = [m._modules for m in self.modules if m._modules]
        self.buffers = [m._buffers for m in self.modules if m._buffers]
        self.hooks = [h for m in self.modules for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        self.parameters = [of_module[name] for of_module, name in self.places]  # kept, so that no id is used again
        self.seen = self._look()

    def changed(self) -> bool:
        return self._look() != self.seen

    def _look(self) -> tuple[Any, ...]:
        parameters = [of_module.get(name) for of_module, name in self.places]
        return (
            [*map(id, parameters)],
            [p is not None and p.requires_grad for p in parameters],
            [module.training for module in self.modules],
            [id(child) for children in self.children for child in children.values()],
            [buffer is None for buffers in self.buffers for buffer in buffers.values()],
            any(self.hooks),
        )
