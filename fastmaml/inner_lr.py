"""The inner step size as a user gives it, and as engines take it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fastmaml.plan import InnerLr, ParameterSlot, Plan, matching

LearnLr = Literal[False, "parameter", "element"]


def rates(lr: float | Mapping[str, float], names: list[str]) -> dict[str, float]:
    """Each parameter's inner lr.

    Args:
        lr: one number, or {fnmatch pattern on parameter names: number}, where later patterns win.
    Raises:
        TypeError, ValueError: unless every number is finite and every parameter has one.
    """
    if not isinstance(lr, Mapping):
        return dict.fromkeys(names, _rate(lr))
    found: dict[str, float] = {}
    for pattern, value in lr.items():
        found.update(dict.fromkeys(matching("lr", [pattern], names), _rate(value)))
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"lr: given patterns {list(lr)}, which leave out {missing}; add a pattern '*' in front")
    return found


def _rate(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"lr: given {value!r}; allowed is a number, or a mapping from name patterns to numbers")
    if not math.isfinite(value):
        raise ValueError(f"lr: given {value}; allowed are finite numbers")
    return float(value)


def learned_rates(
    learn_lr: LearnLr, values: Mapping[str, float], slots: Sequence[ParameterSlot], like: Tensor
) -> nn.ParameterList:
    """One learned inner lr of each parameter tensor, or of each of its elements (Meta-SGD, arXiv 1707.09835)."""
    if learn_lr not in (False, "parameter", "element"):
        raise ValueError(f"learn_lr: given {learn_lr!r}; allowed are False, 'parameter' and 'element'")
    if learn_lr is False:
        return nn.ParameterList()
    shapes = [slot.shape if learn_lr == "element" else () for slot in slots]
    full = [like.new_full(shape, values[slot.name]) for shape, slot in zip(shapes, slots, strict=True)]
    return nn.ParameterList([nn.Parameter(rate) for rate in full])


def fixed(plan: Plan, values: Mapping[str, float], like: Tensor) -> InnerLr:
    """The plain case: numbers, spread over the flat vector of the plan."""
    pieces = [like.new_full((slot.numel,), values[slot.name] if slot.adapted else 0.0) for slot in plan.slots]
    return InnerLr(torch.cat(pieces), uniform=True, learned=False)


def current(plan: Plan, learned: Sequence[Tensor]) -> InnerLr:
    """Learned step sizes as they stand, spread over the flat vector."""
    pieces = [
        rate.detach().reshape(-1).expand(slot.numel) if slot.adapted else rate.detach().new_zeros(slot.numel)
        for rate, slot in zip(learned, plan.slots, strict=True)
    ]
    return InnerLr(torch.cat(pieces), uniform=all(rate.dim() == 0 for rate in learned), learned=True)


def gradients(plan: Plan, flat: Tensor, learned: Sequence[Tensor]) -> list[Tensor]:
    """The gradient [P] with respect to InnerLr.values, folded to each learned step size's shape."""
    pieces = flat.split(plan.sizes)
    folded = []
    for piece, rate, slot in zip(pieces, learned, plan.slots, strict=True):
        piece = piece if slot.adapted else torch.zeros_like(piece)
        folded.append(piece.sum() if rate.dim() == 0 and slot.shape != () else piece.view(rate.shape))
    return folded
