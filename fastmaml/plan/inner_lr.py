"""The inner step size: from what the user says to one number of each element of the flat vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from numbers import Real
from typing import Literal

import torch
from torch import Tensor

from fastmaml.plan import InnerLr, Plan, matching

LearnLr = Literal[False, "parameter", "element"]


def by_slot(lr: float | Mapping[str, float], plan: Plan) -> list[float]:
    """The step size of each of the plan's parameters; the first pattern that matches a name counts.

    Raises:
        TypeError, ValueError: for what is no finite number ≥ 0, a pattern that matches nothing, or an adapted
        parameter that no pattern matches.
    """
    if not isinstance(lr, Mapping):
        return [_checked(lr)] * len(plan.slots)
    names = [slot.name for slot in plan.slots]
    matching("lr", lr, names)
    rates = {pattern: _checked(value, f"lr[{pattern!r}]") for pattern, value in lr.items()}
    found = []
    for slot in plan.slots:
        rate = next((value for pattern, value in rates.items() if fnmatchcase(slot.name, pattern)), None)
        if rate is None and slot.adapted:
            raise ValueError(f"lr: no pattern matches the adapted parameter '{slot.name}'; add one, such as '*': 0.01")
        found.append(rate or 0.0)
    return found


def _checked(value: float, name: str = "lr") -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: given {value!r}; allowed is a number, or a mapping of fnmatch patterns to numbers")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name}: given {value!r}; allowed are finite numbers from 0")
    return float(value)


def check_learn(learn_lr: object) -> None:
    if learn_lr not in (False, "parameter", "element"):
        raise ValueError(f"learn_lr: given {learn_lr!r}; allowed are False, 'parameter' and 'element'")


def initial(rates: list[float], plan: Plan, learn_lr: str, like: Tensor) -> Tensor:
    """What is learned: [number of parameters] for "parameter", [P] for "element"."""
    values = torch.tensor(rates, dtype=like.dtype, device=like.device)
    return values if learn_lr == "parameter" else _spread(values, plan)


class InnerLrOf:
    """The InnerLr of one Plan, on one device, in one dtype."""

    def __init__(self, plan: Plan, rates: list[float], like: Tensor) -> None:
        adapted = torch.tensor([float(slot.adapted) for slot in plan.slots], dtype=like.dtype, device=like.device)
        self.plan = plan
        self.mask = _spread(adapted, plan)  # [P]
        self.slot_of = _spread(torch.arange(len(plan.slots), device=like.device), plan)  # [P]
        values = _spread(torch.tensor(rates, dtype=like.dtype, device=like.device), plan)
        self.fixed = InnerLr(torch.where(self.mask > 0, values, 0))

    def check_learned(self, inner_lr: Tensor) -> None:
        """Raises ValueError unless a learned tensor has one number for each parameter, or for each element."""
        sizes = (len(self.plan.slots), self.plan.num_parameters)
        if inner_lr.dim() != 1 or inner_lr.numel() not in sizes:
            raise ValueError(
                f"inner_lr: has shape {list(inner_lr.shape)}; the model takes [{sizes[0]}], one of each parameter, or "
                f"[{sizes[1]}], one of each element"
            )

    def learned(self, inner_lr: Tensor) -> InnerLr:
        """Of a learned tensor, [number of parameters] or [P]."""
        self.check_learned(inner_lr)
        values = inner_lr.detach().to(self.mask)
        uniform = values.numel() == len(self.plan.slots)
        if uniform:
            values = values[self.slot_of]  # not repeat_interleave, which waits for the device
        return InnerLr(torch.where(self.mask > 0, values, 0), uniform, learned=True)

    def gradient(self, of_values: Tensor, inner_lr: Tensor) -> Tensor:
        """Gradient with respect to InnerLr.values [P], as one with respect to the learned tensor."""
        masked = torch.where(self.mask > 0, of_values, 0)
        if inner_lr.numel() == len(self.plan.slots):
            masked = torch.stack([piece.sum() for piece in masked.split(self.plan.sizes)])
        return masked.to(inner_lr)


def _spread(by_slot: Tensor, plan: Plan) -> Tensor:
    """[number of parameters] -> [P]."""
    return by_slot.repeat_interleave(torch.tensor(plan.sizes, device=by_slot.device))
