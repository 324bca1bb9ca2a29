"""The engines, and the choice among them."""

from __future__ import annotations

import warnings
from functools import cache

import torch

from fastmaml.engines.base import Engine, MetaGradient
from fastmaml.gradients import GradientRule
from fastmaml.plan import InnerLr, Plan

__all__ = ["NAMES", "Engine", "MetaGradient", "available", "candidates", "choose", "get"]

#: every engine, the fastest first
NAMES = ("gpu", "cpu", "functional", "reference")


def get(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ValueError: for a name that is not known, or an engine that this installation lacks.
    """
    if name not in NAMES:
        raise ValueError(f"engine: given {name!r}; allowed are 'auto', {', '.join(map(repr, NAMES))}")
    engine, absence = _load(name)
    if engine is None:
        raise ValueError(f"engine: {name!r} is not available, as {absence}; allowed here are {available()}")
    return engine


def available() -> list[str]:
    """Names of the engines that this installation has, the fastest first."""
    return [name for name in NAMES if _load(name)[0] is not None]


def choose(
    plan: Plan,
    rule: GradientRule | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    inner_lr: InnerLr | None = None,
) -> tuple[Engine, list[tuple[str, str]]]:
    """The fastest engine that runs the plan, and (name, why not) of each faster one."""
    engines, refusals = candidates(plan, rule, device, dtype, inner_lr)
    faster = NAMES[: NAMES.index(engines[0].name)]
    return engines[0], [refusal for refusal in refusals if refusal[0] in faster]


def candidates(
    plan: Plan,
    rule: GradientRule | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    inner_lr: InnerLr | None = None,
) -> tuple[list[Engine], list[tuple[str, str]]]:
    """All engines that run the plan, the fastest first, and (name, why not) of the others.

    Raises:
        ValueError: where there is none.
    """
    engines, refusals = [], []
    for name in NAMES:
        engine, absence = _load(name)
        reason = absence if engine is None else engine.refusal(plan, rule, device, dtype, inner_lr)
        if engine is None or reason is not None:
            refusals.append((name, str(reason)))
        else:
            engines.append(engine)
    if not engines:
        raise ValueError("engine: none runs this. " + "; ".join(f"{name}: {reason}" for name, reason in refusals))
    return engines, refusals


@cache
def _load(name: str) -> tuple[Engine | None, str | None]:
    if name == "reference":
        from fastmaml.engines.reference import ReferenceEngine

        return ReferenceEngine(), None
    if name == "functional":
        from fastmaml.engines.functional import FunctionalEngine

        return FunctionalEngine(), None
    return _load_gpu() if name == "gpu" else _load_cpu()


def _load_gpu() -> tuple[Engine | None, str | None]:
    if not (torch.cuda.is_available() or torch.xpu.is_available()):
        return None, "torch finds no GPU here"
    try:
        from fastmaml.engines.gpu import GpuEngine
    except ImportError as error:
        return None, f"Triton cannot be imported ({error}); pip install triton"
    return GpuEngine(), None


def _load_cpu() -> tuple[Engine | None, str | None]:
    try:
        from fastmaml.engines.cpu import CpuEngine
    except ImportError as error:
        absence = f"the compiled core of fastmaml cannot be imported ({error})"
        warnings.warn(
            f"{absence}; the engine 'functional' stands in for it, and is several times slower. "
            "Install fastmaml from a wheel or where a C++ compiler is at hand.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None, absence
    return CpuEngine(), None


def rank(name: str) -> int:
    """Place in the order of speed, 0 for the fastest; engines from elsewhere come last."""
    return NAMES.index(name) if name in NAMES else len(NAMES)
