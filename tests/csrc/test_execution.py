"""Threads, forks, instruction sets, and what the binding refuses."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.cpu import CpuEngine
from tests.csrc.conftest import core
from tests.csrc.networks import Problem, problem

CPU = CpuEngine()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def gradient(p: Problem) -> torch.Tensor:
    return CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule).gradient


def small() -> Problem:
    return problem([4, 20, 3], tasks=9).to(torch.float32)


@pytest.mark.parametrize("widths", [[4, 20, 3], [300, 64, 5]])
def test_bitwise_the_same_for_any_number_of_threads(widths: list[int], isa: str) -> None:
    p = problem(widths, tasks=23, loss="cross_entropy").to(torch.float32)
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        results.append(gradient(p))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_calls_from_several_threads_at_once() -> None:
    p, results = small(), []
    expected = gradient(p)
    workers = [threading.Thread(target=lambda: results.extend(gradient(p) for _ in range(50))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 200
    assert all(torch.equal(expected, result) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.skipif("FASTMAML_CORE" in os.environ, reason="forking under a sanitizer hangs in its own runtime")
def test_a_forked_child_computes_too() -> None:
    torch.set_num_threads(2)
    p = small()
    expected = gradient(p)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert torch.equal(expected, torch.tensor(pool.apply(_gradient_as_list)))


def _gradient_as_list() -> list[float]:
    return gradient(small()).tolist()


def test_nan_in_the_data_reaches_the_loss() -> None:
    p = small()
    p.batch.support.x[4, 1, 2] = float("nan")
    result = CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)
    assert result.query_losses.isnan().nonzero().flatten().tolist() == [4]


def test_a_label_out_of_range_is_named() -> None:
    p = problem([4, 20, 3], loss="cross_entropy")
    y = p.batch.query.y.clone()
    y[1, 2] = 3
    batch = TaskBatch(p.batch.support, Samples(p.batch.query.x, y))
    with pytest.raises(ValueError, match=r"query\.y: label 3 of task 1, sample 2 .* allowed are 0 to 2"):
        CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, batch, p.steps, p.rule)


def test_a_task_without_weight_is_named() -> None:
    p = problem([4, 20, 3], ragged=True)
    assert p.batch.support.weights is not None
    p.batch.support.weights[2] = 0
    with pytest.raises(ValueError, match=r"support\.weights: all weights of task 2 are zero"):
        gradient(p)


def test_isa_names() -> None:
    assert core.isa() in core.supported_isas()
    with pytest.raises(ValueError, match=f"'sse9' is not available; this processor has: {core.supported_isas()[0]}"):
        core.set_isa("sse9")


@pytest.mark.skipif("FASTMAML_CORE" in os.environ, reason="a subprocess would load the installed core")
@pytest.mark.parametrize("name", core.supported_isas())
def test_isa_is_forced_by_the_environment(name: str) -> None:
    code = "from fastmaml import _core; print(_core.isa())"
    environment = {**os.environ, "FASTMAML_ISA": name}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == name


@pytest.mark.parametrize(
    ("layers", "loss", "message"),
    [
        ([], "mse", "at least one layer"),
        ([("attention", 1, 1, 0, -1, 0.0)], "mse", "unknown layer kind"),
        ([("conv", 1, 1, 0, -1, 0.0)], "mse", "needs a geometry"),
        ([("linear", 2, 2, 0, -1, 0.0)], "huber", "loss must be"),
        ([("linear", 2, 2, 0, -1, 0.0), ("linear", 3, 2, 0, -1, 0.0)], "mse", "do not chain"),
        ([("linear", 2, 3, 0, -1, 0.0)], "mse", "size of a parameter"),
        ([("linear", 2, 1, 0, -1, 0.0)], "mse", "size of a parameter"),
        ([("linear", 1, 1, 0, 2, 0.0)], "mse", "size of a parameter"),
        ([("linear", 2, 2, -1, -1, 0.0)], "mse", "needs a weight"),
        ([("linear", 0, 2, 0, -1, 0.0)], "mse", "at least 1"),
    ],
)
def test_the_binding_refuses(layers: list[tuple[object, ...]], loss: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.Model(layers, loss, [4])


def test_the_binding_refuses_null_and_empty() -> None:
    model = core.Model([("linear", 2, 2, 0, -1, 0.0)], "mse", [4])
    with pytest.raises(ValueError, match="y must not be null"):
        model.adapt_float32(1, True, 1, (1, 0, 0, 1), 1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="y must not be null"):
        model.hvp_float32(1, (1, 0, 0, 1), 1, 1, 1, 1)
    with pytest.raises(ValueError, match="y must not be null"):
        model.linearise_float32(1, True, (1, 0, 0, 1), 1, 1, 0)
    with pytest.raises(ValueError, match="y must not be null"):
        model.meta_gradient_float32(1, 1, True, (1, 1, 0, 1), (1, 0, 0, 1), 1, 1, True, 1, 0, 1, 1, 0, 1)
    with pytest.raises(ValueError, match="at least one sample"):
        model.predict_float32(1, 0, 1, 0, 1, 1)
    with pytest.raises(ValueError, match="tasks must be at least 1"):
        model.predict_float32(1, 1, 0, 1, 1, 1)


def test_the_core_under_test_is_the_one_asked_for() -> None:
    import fastmaml
    from fastmaml.engines.cpu import engine

    assert fastmaml._core is engine._core is core
    folder = os.environ.get("FASTMAML_CORE")
    assert core.__file__ is not None
    assert folder is None or Path(core.__file__).parent == Path(folder).resolve()
