"""torch.func as an engine."""

from fastmaml.engines.functional.engine import (
    FunctionalEngine,
)

__all__ = [
    "FunctionalEngine",
]
