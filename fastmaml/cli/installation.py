"""What is installed here, which engine the paper's networks get, and why not a faster one."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata, util

import torch

from fastmaml import openmp
from fastmaml.maml import MAML
from fastmaml.models import LINEAR_ONLY, OmniglotMLP, SinusoidMLP

_PACKAGES = ("fastmaml", "torch", "numpy", "safetensors", "triton", "matplotlib", "tensorboard", "gymnasium", "mujoco")


def report() -> str:
    """Versions, the compiled core, threads and how idle ones wait, the GPU, and the paper's networks' engines."""
    sections = {
        "versions": _versions(),
        "compiled core": _core(),
        "machine": _machine(),
        "engine='auto'": _engines(),
    }
    return "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items())


def _versions() -> Iterator[str]:
    yield f"{'python':<12} {platform.python_version()} ({sys.executable})"
    for name in _PACKAGES:
        yield f"{name:<12} {_version(name)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _core() -> Iterator[str]:
    if util.find_spec("fastmaml._core") is None:
        yield "absent: fastmaml was installed without it (pure Python); install from a wheel, or where there is"
        yield "a C++ compiler. Engine 'functional' stands in for 'cpu' and is several times slower."
        return
    try:
        from fastmaml import _core
    except ImportError as error:
        yield f"present, but does not load: {error}"
        return
    yield f"present: {_core.__file__}"
    forced = os.environ.get("FASTMAML_ISA")
    yield f"instruction set: {_core.isa()}" + (f" (forced by FASTMAML_ISA={forced})" if forced else "")
    yield f"supported here: {', '.join(_core.supported_isas())} (FASTMAML_ISA forces one)"


def _machine() -> Iterator[str]:
    yield f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads in use"
    yield from openmp.report()
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        yield f"GPU: {torch.cuda.get_device_name()}, compute capability {major}.{minor}"
    else:
        yield "no GPU that torch can use"


def _engines() -> Iterator[str]:
    networks = {
        "sinusoid (1-40-40-1, mse)": (SinusoidMLP(), "mse", None),
        "omniglot-mlp (784-256-128-64-64-5, batch norm)": (OmniglotMLP(), "cross_entropy", LINEAR_ONLY),
    }
    for title, (model, loss, adapted) in networks.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an absent core is told above
            explanation = MAML(model, loss=loss, adapted=adapted).explain()
        yield title
        yield from (f"  {line}" for line in explanation.splitlines())
