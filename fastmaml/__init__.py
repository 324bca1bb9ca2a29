"""fastmaml: a MAML trainer for PyTorch whose batched inner loop runs in its own kernels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import fastmaml.openmp  # noqa: F401 - first: it has to come before torch
from fastmaml.batch import Samples, TaskBatch
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.maml import MAML
from fastmaml.plan import Plan
from fastmaml.runtime.adapted import AdaptedTask, AdaptedTasks, Details

if TYPE_CHECKING:
    from fastmaml import models, rl, tasks
    from fastmaml.evaluation import Evaluation, evaluate
    from fastmaml.runs.checkpoint import load, load_model, save
    from fastmaml.training.trainer import Trainer, TrainResult, Validation

__all__ = [
    "MAML",
    "AdaptedTask",
    "AdaptedTasks",
    "Details",
    "Evaluation",
    "FirstOrder",
    "GradientRule",
    "Plan",
    "Samples",
    "SecondOrder",
    "TaskBatch",
    "TrainResult",
    "Trainer",
    "Validation",
    "evaluate",
    "load",
    "load_model",
    "models",
    "rl",
    "save",
    "tasks",
]
__version__ = "0.1.0"

# Imported where they are first asked for: they bring data sets, logs and simulators.
_PACKAGES = ("models", "rl", "tasks")
_ELSEWHERE = {
    "evaluation": ("Evaluation", "evaluate"),
    "runs.checkpoint": ("load", "load_model", "save"),
    "training.trainer": ("Trainer", "TrainResult", "Validation"),
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"fastmaml.{name}")
    for module, names in _ELSEWHERE.items():
        if name in names:
            return getattr(import_module(f"fastmaml.{module}"), name)
    raise AttributeError(f"module 'fastmaml' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
