"""Noticing that a model has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from torch import nn

try:
    from fastmaml import _core
except ImportError:  # it was left out when fastmaml was built
    _core = None  # type: ignore[assignment]


class ModelWatch:
    """Notices, at a microsecond or two a look, that a model's mode, parameters, children or hooks have changed.

    Of the tensors' dtype and device, those of the first parameter stand for all.

    changed: () -> whether anything has; by the compiled core where there is one.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        parameters = list(model.parameters())
        self._members = [of for m in modules for of in (m._parameters, m._modules)]
        self._ids = [_ids(of) for of in self._members]
        self._held = [[*of.values()] for of in self._members]  # so that no new object gets an old one's id
        self._attributes: list[tuple[Any, str, Any]] = [
            *((module, "training", module.training) for module in modules),
            *((parameter, "requires_grad", parameter.requires_grad) for parameter in parameters),
            *((first, name, getattr(first, name)) for first in parameters[:1] for name in ("dtype", "device")),
        ]
        self._buffers = [m._buffers for m in modules if m._buffers]
        self._absent = [_absent(of) for of in self._buffers]
        self._hooks = [h for m in modules for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        self._hooked = any(self._hooks)
        self.changed: Callable[[], bool] = self._changed
        if _core is not None and _are_dicts(self._members, self._buffers, self._hooks):
            self.changed = _core.ModelWatch(self._members, self._attributes, self._buffers, self._hooks).changed

    def _changed(self) -> bool:
        return (
            any(_ids(of) != seen for of, seen in zip(self._members, self._ids, strict=True))
            or any(getattr(of, name) != seen for of, name, seen in self._attributes)
            or any(_absent(of) != seen for of, seen in zip(self._buffers, self._absent, strict=True))
            or any(self._hooks) != self._hooked
        )


def _ids(members: dict[str, Any]) -> list[int]:
    return list(map(id, members.values()))


def _absent(buffers: dict[str, Any]) -> list[bool]:
    return [buffer is None for buffer in buffers.values()]


def _are_dicts(*groups: Iterable[Any]) -> bool:
    return all(isinstance(each, dict) for each in chain(*groups))
