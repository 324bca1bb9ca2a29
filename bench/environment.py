"""What must hold of the process before torch is imported, and what a reader must know of the machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

FAIR: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Several OpenMP runtimes in one process otherwise spin against each other, and every contestant but the one
that came last can be a hundred times slower."""


def ensure_fair(module: str) -> None:
    """Starts `python -m module` again under FAIR, unless it is set already: it is read when torch is loaded."""
    if any(os.environ.get(name) != value for name, value in FAIR.items()):
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **FAIR})


def machine() -> dict[str, str]:
    """Processor, cores and versions, by name."""
    import torch

    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch instruction set": torch.backends.cpu.get_cpu_capability(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
