"""Running statistics of normalisation layers: which norms have them, and a network without them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


def has_statistics(module: nn.Module) -> bool:
    """Whether a module is a norm that keeps running statistics."""
    return isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None


def uses_statistics(module: nn.Module) -> bool:
    """Whether a norm normalises by its running statistics, rather than by those of the batch at hand."""
    return has_statistics(module) and not module.training


def updates_statistics(module: nn.Module) -> bool:
    """Whether a forward pass would change a norm's running statistics."""
    return has_statistics(module) and module.training


def without_statistics(module: nn.Module, kind: Callable[[nn.Module], bool]) -> nn.Module:
    """The module, or, if it has norms of a kind, a copy whose norms of that kind take statistics of the batch at hand.

    The copy shares all tensors with the module, those that are plain attributes too.

    Raises:
        ValueError: the module cannot be copied.
    """
    if not any(kind(child) for child in module.modules()):
        return module
    shared = {id(tensor): tensor for tensor in _tensors(module)}
    try:
        copied = copy.deepcopy(module, shared)
    except Exception as error:  # a user's module may hold anything
        raise ValueError(
            f"model: {type(module).__name__} keeps running statistics and cannot be copied without them "
            f"({str(error).splitlines()[0]}); make its norms with track_running_stats=False"
        ) from error
    child: Any
    for child in copied.modules():
        if kind(child):
            child.track_running_stats = False
            child.running_mean = child.running_var = child.num_batches_tracked = None
    return copied


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
    for child in module.modules():
        yield from (value for value in vars(child).values() if isinstance(value, Tensor))
