"""The core alone: what is tested here also runs with each instruction set forced, and under sanitizers."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


def load_core(folder: str) -> ModuleType:
    """The extension from another build folder (FASTMAML_CORE), in place of the installed one.

    It must come first: of two extensions of one name a process gets the first, whichever file it asks for.
    """
    path = next(Path(folder).glob("_core*.so")).resolve()
    assert "fastmaml._core" not in sys.modules, "the installed core has been loaded before the one of FASTMAML_CORE"
    spec = importlib.util.spec_from_file_location("fastmaml._core", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["fastmaml._core"] = module
    import fastmaml

    fastmaml._core = module  # type: ignore[attr-defined]
    return module


if os.environ.get("FASTMAML_CORE"):
    core = load_core(os.environ["FASTMAML_CORE"])
else:
    core = pytest.importorskip("fastmaml._core", reason="the compiled core is not installed")


@pytest.fixture
def restored() -> Iterator[None]:
    """The form of meta-gradients and the number of threads are afterwards as they were."""
    threads = torch.get_num_threads()
    yield
    core.set_form("auto")
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Scratch memory is NaN before every call, so that nothing is read that was not written."""
    core.set_poison(True)
    yield
    core.set_poison(False)


@pytest.fixture(params=core.supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = core.isa()
    core.set_isa(request.param)
    yield request.param
    core.set_isa(before)
