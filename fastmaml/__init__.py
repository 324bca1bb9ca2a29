"""fastmaml: a MAML trainer for PyTorch whose batched inner loop runs in its own kernels."""

import fastmaml.openmp  # noqa: F401 - first: it has to come before torch
from fastmaml.adapted import AdaptedTasks, Details
from fastmaml.batch import Samples, TaskBatch
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.maml import MAML
from fastmaml.plan import Plan

__all__ = [
    "MAML",
    "AdaptedTasks",
    "Details",
    "FirstOrder",
    "GradientRule",
    "Plan",
    "Samples",
    "SecondOrder",
    "TaskBatch",
]
__version__ = "0.1.0"
