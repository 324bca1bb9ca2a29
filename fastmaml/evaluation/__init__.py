"""How well a network adapts."""

from fastmaml.evaluation.evaluation import (
    Evaluation,
    evaluate,
    placed,
)

__all__ = [
    "Evaluation",
    "evaluate",
    "placed",
]
