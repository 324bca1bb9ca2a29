"""Functions of one element, each in one entry: its name in the engines, and who calls it in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastmaml.plan.layers import PointwiseLayer
from fastmaml.plan.obstacle import Obstacle


@dataclass(frozen=True)
class Function:
    """One function of an element.

    module: torch's layer of it.
    calls: torch's functions and the names of methods that compute it.
    constants: the arguments that its formula takes, by the name that the module and the calls have for them, with
        their defaults.
    piecewise: whether it is linear on either side of 0, so that engines may fuse it into any layer before it.
    """

    module: type[nn.Module]
    calls: tuple[Callable[..., Any] | str, ...]
    constants: Mapping[str, float] = field(default_factory=dict)
    piecewise: bool = False


#: kind -> function. A further one needs an entry here, one in csrc/generic and one in kernels.
FUNCTIONS = {
    "relu": Function(nn.ReLU, (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), piecewise=True),
    "tanh": Function(nn.Tanh, (F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_")),
}
_KIND_OF_MODULE = {function.module: kind for kind, function in FUNCTIONS.items()}
_KIND_OF_CALL = {call: kind for kind, function in FUNCTIONS.items() for call in function.calls}
MODULES = tuple(_KIND_OF_MODULE)


def of_module(module: nn.Module, name: str) -> PointwiseLayer:
    """The layer that a module of one of the classes in MODULES is."""
    kind = _KIND_OF_MODULE[type(module)]
    return PointwiseLayer(kind, name, constants=tuple(float(getattr(module, key)) for key in FUNCTIONS[kind].constants))


def of_call(target: Any, name: str, *args: Any, **kwargs: Any) -> PointwiseLayer | None:
    """The layer that a call of a torch function or method is, given its arguments after x; None if it is none.

    Raises:
        Obstacle: one of its constants is no number.
    """
    kind = _KIND_OF_CALL.get(target)
    if kind is None:
        return None
    constants = FUNCTIONS[kind].constants
    given = {**constants, **dict(zip(constants, args, strict=False)), **kwargs}
    for key in constants:
        if not isinstance(given[key], Real):
            raise Obstacle(f"'{name}' computes its {key}; accepted is a number")
    return PointwiseLayer(kind, name, constants=tuple(float(given[key]) for key in constants))
