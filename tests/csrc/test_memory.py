"""What takes more memory than there is, is refused in words, before anything overflows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastmaml import MAML, FirstOrder
from tests.csrc.conftest import core

BATCH = tuple(torch.randn(25, 10, 1) for _ in range(4))
HUGE = [2**40, 2**58, 2**61, 2**63 - 1]


def maml(steps: int = 1, **options: object) -> MAML:
    module = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 1))
    return MAML(module, lr=0.01, steps=steps, **options)  # type: ignore[arg-type]


def words(steps: int) -> str:
    return rf"steps: {steps} inner steps of 25 tasks of 10 support and 10 query samples need [\d.e+]+ [KMGTPE]iB of "


@pytest.mark.parametrize("form", ["auto", "copies", "lanes"])
@pytest.mark.parametrize("steps", HUGE)
@pytest.mark.usefixtures("restored")
def test_more_steps_than_memory_holds(steps: int, form: str) -> None:
    core.set_form(form)
    for rule in (None, FirstOrder()):
        model = maml(steps, **({} if rule is None else {"rule": rule}))
        with pytest.raises(MemoryError, match=words(steps)):
            model.backward(BATCH)
        with pytest.raises(MemoryError, match=words(steps)):
            model.meta_loss(BATCH)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_that_learn_their_step_sizes() -> None:
    with pytest.raises(MemoryError, match=words(2**58)):
        maml(2**58, learn_lr="element").backward(BATCH)


@pytest.mark.parametrize("steps", HUGE)
def test_more_losses_than_memory_holds(steps: int) -> None:
    with pytest.raises(MemoryError, match=f"steps: the support losses of 25 tasks at each of {steps} inner steps"):
        maml().adapt_tasks(BATCH[:2], steps=steps)


def model_of_one_weight() -> object:
    return core.Model([("linear", 1, 1, 0, -1, 0.0)], "mse", [1])


@pytest.mark.parametrize("steps", HUGE)
def test_adaptation_in_the_core(steps: int) -> None:
    weight, samples = torch.zeros(1), torch.zeros(1, 1, 1)
    at, set_ = weight.data_ptr(), (samples.data_ptr(), samples.data_ptr(), 0, 1)
    with pytest.raises(MemoryError, match=f"steps: {steps} inner steps of 1 tasks of 1 samples need"):
        model_of_one_weight().adapt_float32(at, True, at, set_, 1, steps, 1, at, at)  # type: ignore[attr-defined]


@pytest.mark.parametrize("tasks", [2**45, 2**58, 2**62])
def test_more_tasks_or_samples_than_memory_holds(tasks: int) -> None:
    model, number = model_of_one_weight(), torch.zeros(1)
    at = number.data_ptr()
    many, long = (at, at, 0, 1), (at, at, 0, tasks)
    for given, count in ((many, tasks), (long, 1)):
        with pytest.raises(MemoryError, match=f"tasks: {count} tasks of {given[3]} samples need"):
            model.hvp_float32(at, given, at, count, 1, at)  # type: ignore[attr-defined]
        with pytest.raises(MemoryError, match=f"tasks: {count} tasks of {given[3]} samples need"):
            model.linearise_float32(at, False, given, count, 1, at)  # type: ignore[attr-defined]
    with pytest.raises(MemoryError, match=f"tasks: 1 tasks of {tasks} samples need"):
        model.predict_float32(at, at, 1, tasks, 1, at)  # type: ignore[attr-defined]
