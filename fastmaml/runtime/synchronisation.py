"""Several processes: whether anything brings their gradients together."""

from __future__ import annotations

import enum

import torch
from torch import nn

_is_initialized = torch.distributed.is_initialized if torch.distributed.is_available() else bool


class Group(enum.Enum):
    """What `group=` is where the caller says nothing."""

    UNSAID = "whatever wraps the MAML"


def check_synchronised(model: nn.Module, group: object, through_autograd: bool) -> None:
    """Raises RuntimeError if each process would be left with a gradient of its own.

    Args:
        model: the wrapped network.
        group: `Group.UNSAID`, or None: the caller reduces the gradients.
        through_autograd: whether the gradient reaches the parameters by autograd, whose hooks a wrapper waits for.
    """
    if group is not Group.UNSAID and group is not None:
        raise TypeError(f"group: given {type(group).__name__}; allowed is None: the caller reduces the gradients")
    if group is None or not several_processes() or _contains_wrapper(model):
        return
    if through_autograd and (_is_in_ddp_forward() or _is_in_sharded_module(model)):
        return
    raise RuntimeError(
        f"group: {torch.distributed.get_world_size()} processes train, and nothing would bring their gradients "
        "together: each would go on with its own. Call meta_loss inside the forward of a module that "
        "DistributedDataParallel or fully_shard wraps, or say group=None and reduce the gradients yourself"
    )


def several_processes() -> bool:
    """Whether a process group of more than one rank is initialised."""
    return _is_initialized() and torch.distributed.get_world_size() > 1


def _contains_wrapper(model: nn.Module) -> bool:
    return any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules())


def _is_in_ddp_forward() -> bool:
    return getattr(nn.parallel.DistributedDataParallel, "_active_ddp_module", None) is not None


def _is_in_sharded_module(model: nn.Module) -> bool:
    """Whether the model is part of a module that fully_shard or replicate was called on."""
    try:
        from torch.distributed._composable_state import _module_state_mapping
    except ImportError:  # another torch keeps it elsewhere
        return False
    return any(part is model for wrapped in list(_module_state_mapping) for part in wrapped.modules())
