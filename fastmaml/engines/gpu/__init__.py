"""The Triton kernels as an engine."""

from fastmaml.engines.gpu.engine import (
    DEVICES,
    GpuEngine,
)

__all__ = [
    "DEVICES",
    "GpuEngine",
]
