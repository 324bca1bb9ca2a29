"""The C++ core as an engine."""

from fastmaml.engines.cpu.engine import (
    CpuEngine,
)

__all__ = [
    "CpuEngine",
]
