"""learn2learn.algorithms.MAML: clone() and adapt() for each task, then backward().

The package as a whole does not build on Python 3.11 and later (stale Cython), but this class is pure Python. Its
source is downloaded to a cache outside the repository, and it alone is imported.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.problem import Problem
from bench.rivals import LOSSES, Absent, Step

VERSION = "0.2.0"


def prepare(problem: Problem) -> Step:
    maml = import_maml()(deepcopy(problem.network), lr=problem.lr, first_order=False)
    batch, loss_of = problem.batch, LOSSES[problem.loss]

    def query_loss(task: int) -> Tensor:
        learner = maml.clone()
        for _ in range(problem.steps):
            learner.adapt(loss_of(learner(batch.support.x[task]), batch.support.y[task]))
        return loss_of(learner(batch.query.x[task]), batch.query.y[task])

    def step() -> tuple[Tensor, list[Tensor | None]]:
        maml.zero_grad()
        loss = torch.stack([query_loss(task) for task in range(batch.num_tasks)]).mean()
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in maml.parameters()]

    return step


def import_maml() -> Any:
    source = _source()
    for name, folder in (("learn2learn", source), ("learn2learn.algorithms", source / "algorithms")):
        if name not in sys.modules:
            package = types.ModuleType(name)  # stands in for __init__.py, which imports what cannot be built
            package.__path__ = [str(folder)]
            sys.modules[name] = package
    return importlib.import_module("learn2learn.algorithms.maml").MAML


def _source() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastmaml"
    source = cache / f"learn2learn-{VERSION}" / "learn2learn"
    if not (source / "algorithms" / "maml.py").exists():
        _download(cache)
    return source


def _download(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    requirement = f"learn2learn=={VERSION}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary=:all:"]
    pip += ["--retries=1", "--timeout=10"]
    done = subprocess.run([*pip, "-d", str(cache), requirement], capture_output=True, text=True, check=False)
    archives = sorted(cache.glob("learn2learn-*.tar.gz"))
    if not archives:
        raise Absent(f"pip could not download {requirement}: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[-1]) as archive:
        archive.extractall(cache, filter="data")
