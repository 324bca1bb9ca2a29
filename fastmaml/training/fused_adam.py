"""torch.optim.Adam's fused step without what surrounds it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim import optimizer as torch_optimizer

from fastmaml.runs.optimizer_state import check_count, check_fused
from fastmaml.threads import one_thread

_SMALL = 1 << 15  # elements that one thread has done before others have woken


class FusedAdam:
    """PyTorch's own kernel of Adam(fused=True) on CPUs, called on lists that are made once.

    `step` does to the parameters and the optimizer's state, bit for bit, what `optimizer.step()` does. That spends
    ten times the kernel's time, on a small network, on collecting the lists anew and on records for the profiler.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._collected: _Lists | None = None

    def forget(self) -> None:
        """Makes the lists anew at the next step: for a parameter or a state whose memory may be another by then."""
        self._collected = None

    def step(self) -> bool:
        """Takes the step; False, with nothing done, where `optimizer.step()` has to do it.

        Raises:
            ValueError: the optimizer's state is not of the shapes and dtypes that the kernel would take it for.
        """
        optimizer = self.optimizer
        if type(optimizer) is not Adam or not _is_own_step(optimizer) or is_hooked(optimizer):
            return False
        lists = self._collected
        if lists is None or optimizer.state is not lists.state or optimizer.param_groups is not lists.groups:
            lists = self._collected = _collect(optimizer)
        if lists is None or not _is_plain(lists.groups):
            return False
        gradients = [parameter.grad for parameter in lists.parameters]
        if any(gradient is None for gradient in gradients):
            return False
        with one_thread() if lists.elements <= _SMALL else nullcontext():
            lists.run(gradients)
        optimizer._opt_called = True  # type: ignore[attr-defined]  # a scheduler warns where no step came before its own
        return True


class _Lists:
    """What the kernel takes, beside the gradients."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.state, self.groups = optimizer.state, optimizer.param_groups
        self.group = self.groups[0]
        self.parameters: list[Tensor] = self.group["params"]
        self.elements = sum(parameter.numel() for parameter in self.parameters)
        states = [self.state[parameter] for parameter in self.parameters]
        for parameter, state in zip(self.parameters, states, strict=True):
            check_fused(parameter, state, ("exp_avg", "exp_avg_sq"))
            check_count(state.get("step"))
        self.plain = [parameter.detach() for parameter in self.parameters]
        self.averages = [state["exp_avg"] for state in states]
        self.squares = [state["exp_avg_sq"] for state in states]
        self.count = torch.stack([state["step"] for state in states])
        self.counts = [*self.count]  # views, so that one addition counts for all
        for state, count in zip(states, self.counts, strict=True):
            state["step"] = count

    def run(self, gradients: list[Any]) -> None:
        group = self.group
        self.count.add_(1)
        torch._fused_adam_(
            self.plain,
            gradients,
            self.averages,
            self.squares,
            [],
            self.counts,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def _collect(optimizer: Optimizer) -> _Lists | None:
    """None where it is not the plain case, or the optimizer has not taken its first step."""
    if not _is_plain(optimizer.param_groups):
        return None
    parameters = optimizer.param_groups[0]["params"]
    kinds = {(p.device.type, p.dtype) for p in parameters}
    if kinds not in ({("cpu", torch.float32)}, {("cpu", torch.float64)}):
        return None
    if any("exp_avg" not in optimizer.state.get(p, {}) for p in parameters):
        return None
    return _Lists(optimizer)


def _is_plain(groups: list[dict[str, Any]]) -> bool:
    group = groups[0]
    others = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
    if len(groups) != 1 or not group["fused"] or not isinstance(group["lr"], float):
        return False
    return not any(group.get(name) for name in others)


def _is_own_step(optimizer: Optimizer) -> bool:
    """Whether `step` is Adam's. A scheduler puts its own in front, which but notes that it was called."""
    step = optimizer.__dict__.get("step")
    return step is None or (hasattr(step, "_wrapped_by_lr_sched") and step.__wrapped__ is Adam.step)


def is_hooked(optimizer: Optimizer) -> bool:
    """Whether someone wants to be told of a step."""
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )
