"""fastmaml: a drop-in MAML trainer for PyTorch whose batched inner loop runs in its own kernels."""

from fastmaml.adapted import AdaptedTasks
from fastmaml.batch import Samples, TaskBatch
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.maml import MAML, Details

__version__ = "0.1.0"

__all__ = [
    "MAML",
    "AdaptedTasks",
    "Details",
    "FirstOrder",
    "GradientRule",
    "Samples",
    "SecondOrder",
    "TaskBatch",
]
