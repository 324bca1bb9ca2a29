"""Noticing that a model has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as for_all_modules
from torch.nn.parameter import is_lazy

from fastmaml.runtime.settings import is_same, settings_of

try:
    from fastmaml import _core
except ImportError:  # it was left out when fastmaml was built
    _core = None  # type: ignore[assignment]

_EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # from torch 2.10
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ModelWatch:
    """Notices, at a microsecond or two a look, that a model has changed in what it computes or of which form it is.

    It sees a module's class, mode and settings (`settings.py`), an own `forward` among them; its children,
    parameters and hooks, and the hooks of all modules; which buffers are None; and each parameter's requires_grad,
    dtype, device and shape. It does not see new numbers in a tensor, nor what lies within an attribute that is neither
    plain nor a list: assign such an object anew.

    changed: () -> whether anything has; by the compiled core where there is one.
    """

    def __init__(self, model: nn.Module) -> None:
        modules, parameters = list(model.modules()), list(model.parameters())
        settings = [(module, settings_of(module)) for module in modules]
        members = [of for m in modules for of in (m._parameters, m._modules, *(vars(m).get(h, {}) for h in _HOOKS))]
        members += [getattr(for_all_modules, f"_global{hooks}") for hooks in _HOOKS]
        buffers = [m._buffers for m in modules if m._buffers]
        self.changed: Callable[[], bool]
        if _core is not None and all(isinstance(of, dict) for of in (*members, *buffers, *map(vars, modules))):
            self.changed = _core.ModelWatch(settings, members, buffers, parameters, _EXCHANGE).changed
        else:
            self.changed = _Seen(settings, members, buffers, parameters).changed


class _Seen:
    """The looks of the core's ModelWatch, in Python.

    Args:
        settings: of each module, itself and what `settings_of` gives.
        members: dicts whose values are to stay.
        buffers: dicts, of which those that are None are to stay so, and no others.
        parameters: whose forms are to stay.
    """

    def __init__(
        self,
        settings: list[tuple[nn.Module, dict[str, Any]]],
        members: list[dict[str, Any]],
        buffers: list[dict[str, Any]],
        parameters: list[nn.Parameter],
    ) -> None:
        self._settings = [(module, type(module), len(vars(module)), of) for module, of in settings]
        self._members = [(of, list(of.values())) for of in members]
        self._buffers = [(of, _absent(of)) for of in buffers]
        self._forms = [(parameter, _form(parameter)) for parameter in parameters]

    def changed(self) -> bool:
        return (
            any(_are_other(of, seen) for of, seen in self._members)
            or any(_form(parameter) != seen for parameter, seen in self._forms)
            or any(_absent(of) != seen for of, seen in self._buffers)
            or any(_is_set_anew(*each) for each in self._settings)
        )


def _are_other(members: dict[str, Any], seen: list[Any]) -> bool:
    return len(members) != len(seen) or any(now is not then for now, then in zip(members.values(), seen, strict=True))


def _form(parameter: Tensor) -> tuple[Any, ...]:
    shape = None if is_lazy(parameter) else parameter.shape
    return parameter.requires_grad, parameter.dtype, parameter.device, shape


def _absent(buffers: dict[str, Any]) -> list[bool]:
    return [buffer is None for buffer in buffers.values()]


def _is_set_anew(module: nn.Module, kind: type, count: int, seen: dict[str, Any]) -> bool:
    """Whether a module has another class, more or fewer attributes, or other settings."""
    now = vars(module)
    if type(module) is not kind or len(now) != count:
        return True
    return not all(name in now and is_same(now[name], value) for name, value in seen.items())
