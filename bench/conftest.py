"""pytest bench: its options, what it needs, and what it writes down of the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import util
from typing import Any

import pytest

from bench import environment

_FAIR = environment.set_fair()  # before torch is imported, which is why the functions below import it
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX would move the rivals' problems to a GPU by itself

COLUMNS = ["median", "iqr", "min", "max", "rounds"]


def pytest_addoption(parser: pytest.Parser) -> None:
    from bench import options

    options.add_to(parser.getgroup("fastmaml", "meta-gradients to be measured (pytest bench)"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError("pytest bench needs the plugin pytest-benchmark: pip install 'fastmaml[bench]'")
    if config.option.benchmark_histogram and util.find_spec("pygal") is None:
        raise pytest.UsageError("--benchmark-histogram needs pygal: pip install 'pytest-benchmark[histogram]'")
    if config.option.benchmark_columns is None:  # those of the plugin are made for calls of nanoseconds
        config.option.benchmark_columns = COLUMNS
    if not _FAIR:
        config.issue_config_time_warning(pytest.PytestConfigWarning(_unfair()), stacklevel=2)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Is called where this file was read before the command line was."""
    from bench.options import NAMED

    session.config.stash[NAMED] = True


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"{name}: {value}" for name, value in _facts(config).items()]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds what the times depend on, and leaves out the clock of the moment, by which no two runs are comparable."""
    for momentary in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(momentary, None)
    machine_info["fastmaml"] = _facts(config)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_commit_info(commit_info: dict[str, Any]) -> None:
    """pytest-benchmark asks git where pytest was started; this is the commit of what was measured."""
    commit_info["fastmaml"] = environment.commit()


@pytest.fixture(scope="session", autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("threads"))
    yield
    torch.set_num_threads(before)


def _facts(config: pytest.Config) -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    rivals = {package: environment.version(package) for package in ("jax", "higher", "torchopt")}
    openmp = {name: os.environ[name] for name in environment.FAIR}
    return {**environment.machine(), "threads": str(config.getoption("threads")), "gpu": gpu, **rivals, **openmp}


def _unfair() -> str:
    settings = " ".join(f"{name}={value}" for name, value in environment.FAIR.items())
    return f"torch was loaded before bench/conftest.py, and contestants may slow each other down; set {settings}"
