"""What must hold of the process before torch is imported, and what a reader must know of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]

FAIR: Mapping[str, str] = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Several OpenMP runtimes in one process otherwise spin against each other, and every contestant but the one
that came last can be a hundred times slower."""


def ensure_fair(module: str) -> None:
    """Starts `python -m module` again under FAIR, unless it is set already: it is read when torch is loaded."""
    if any(os.environ.get(name) != value for name, value in FAIR.items()):
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **FAIR})


def set_fair() -> bool:
    """Sets FAIR in this process; False where torch is loaded already and has read other values."""
    if all(os.environ.get(name) == value for name, value in FAIR.items()):
        return True
    os.environ.update(FAIR)
    return "torch" not in sys.modules


def machine() -> dict[str, str]:
    """Processor, cores, versions and instruction sets, by name."""
    import torch

    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch instruction set": torch.backends.cpu.get_cpu_capability(),
        "fastmaml instruction set": _core_instruction_set(),
    }


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Of this checkout, "+" where files differ from it; FASTMAML_COMMIT where there is no git to ask."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FASTMAML_COMMIT", "unknown")
    return head.stdout.strip() + ("+" if changed.stdout else "")


def _core_instruction_set() -> str:
    try:
        from fastmaml import _core
    except ImportError:
        return "no compiled core"
    return str(_core.isa())


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
