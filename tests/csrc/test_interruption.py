"""Signals in the midst of a call: what their handlers raise ends it, and nothing else changes.

A call that is cut short has not written all of its outputs, which hold NaN before: that is how one is told from a call
that has run to its end. Calls take seconds, the signal comes after a twentieth of one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastmaml import MAML
from fastmaml.engines.cpu.model import core_model
from fastmaml.plan import Plan
from tests.csrc.conftest import core
from tests.csrc.networks import network

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the platform has no interval timer"),
    pytest.mark.usefixtures("restored"),
]
NAN = float("nan")


class Alarm(Exception):
    """What the handler raises."""


@pytest.fixture(autouse=True)
def unpoisoned(poisoned: None) -> None:
    """Filling what long calls would use takes longer than they have here."""
    core.set_poison(False)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def with_alarm(handler: Callable[[], None], call: Callable[[], object]) -> None:
    """Runs the call; its alarm goes off meanwhile."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def cut_short(call: Callable[[], object], *outputs: Tensor) -> None:
    def raises() -> None:
        raise Alarm

    with pytest.raises(Alarm):
        with_alarm(raises, call)
    assert all(output.isnan().any() for output in outputs)


def nans(*shape: int) -> Tensor:
    return torch.full(shape, NAN)


@dataclass
class Case:
    """A network, and samples of T tasks for either set."""

    widths: list[int]
    tasks: int
    samples: int

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        plan = Plan.of(network(self.widths, nn.ReLU, "none"), "mse")
        self.model: Any = core_model(plan, None)
        self.parameters = plan.flatten(list(plan.module.parameters())).detach()
        self.lr = torch.full_like(self.parameters, 0.001)
        self.x = torch.randn(self.tasks, self.samples, self.widths[0])
        self.y = torch.randn(self.tasks, self.samples, self.widths[-1])
        self.set = (self.x.data_ptr(), self.y.data_ptr(), 0, self.samples)

    @property
    def size(self) -> int:
        return self.parameters.numel()

    def copies(self) -> Tensor:
        return self.parameters.repeat(self.tasks, 1)

    def meta_gradient(self, steps: int, threads: int, losses: Tensor, gradient: Tensor) -> None:
        self.model.meta_gradient_float32(
            self.parameters.data_ptr(), self.lr.data_ptr(), True, self.set, self.set, self.tasks, steps, True, threads,
            0, losses.data_ptr(), gradient.data_ptr(), 0, 0,
        )  # fmt: skip

    def adapt(self, steps: int, threads: int, fast: Tensor, losses: Tensor) -> None:
        self.model.adapt_float32(
            self.parameters.data_ptr(), True, self.lr.data_ptr(), self.set, self.tasks, steps, threads,
            fast.data_ptr(), losses.data_ptr(),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("case", "steps"), [(Case([50, 200, 50], 300, 100), 100), (Case([20, 100, 20], 1, 1000), 10_000)],
    ids=["between tasks", "between the steps of one"],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["adapt", "meta_gradient"])
def test_a_call_is_cut_short(verb: str, case: Case, steps: int, threads: int) -> None:
    if verb == "adapt":
        fast, losses = nans(case.tasks, case.size), nans(case.tasks, steps)
        cut_short(lambda: case.adapt(steps, threads, fast, losses), fast, losses)
    else:
        losses, gradient = nans(case.tasks), nans(case.size)
        cut_short(lambda: case.meta_gradient(steps, threads, losses, gradient), losses, gradient)
        assert gradient.isnan().all()


@pytest.mark.parametrize(("form", "steps"), [("lanes", 40), ("products", 1)])
def test_so_is_one_in_another_form(form: str, steps: int, threads: int) -> None:
    case = Case([4, 30, 30, 2], 2_000 if form == "lanes" else 60_000, 20)
    losses, gradient = nans(case.tasks), nans(case.size)
    core.set_form(form)
    cut_short(lambda: case.meta_gradient(steps, threads, losses, gradient), losses, gradient)
    assert gradient.isnan().all()


def test_so_is_a_prediction(threads: int) -> None:
    case = Case([1, 400, 400, 1], 60, 8_000)
    fast, outputs = case.copies(), nans(case.tasks, case.samples, 1)
    cut_short(
        lambda: case.model.predict_float32(
            fast.data_ptr(), case.x.data_ptr(), case.tasks, case.samples, threads, outputs.data_ptr()
        ),
        outputs,
    )


def test_so_is_a_hessian_vector_product(threads: int) -> None:
    case = Case([1, 400, 400, 1], 20, 4_000)
    fast, products = case.copies(), nans(case.tasks, case.size)
    cut_short(
        lambda: case.model.hvp_float32(
            fast.data_ptr(), case.set, fast.data_ptr(), case.tasks, threads, products.data_ptr()
        ),
        products,
    )


@pytest.mark.parametrize("widths", [[2, 400, 400, 2], [2, 400, 400, 9]], ids=["kept Jacobians", "as any other"])
def test_a_first_product_cut_short_leaves_the_samples_as_they_were(widths: list[int]) -> None:
    case = Case(widths, 20, 500)
    vector, products, expected = torch.randn(case.size), nans(case.tasks, case.size), nans(case.tasks, case.size)
    gradients = torch.empty(case.tasks, case.size)

    def kept() -> Any:
        return case.model.linearise_float32(
            case.parameters.data_ptr(), True, case.set, case.tasks, 1, gradients.data_ptr()
        )

    kept().product(vector.data_ptr(), True, 2, expected.data_ptr())
    samples = kept()
    cut_short(lambda: samples.product(vector.data_ptr(), True, 1, products.data_ptr()), products)
    samples.product(vector.data_ptr(), True, 2, products.data_ptr())
    assert torch.equal(products, expected)


def test_gradients_stay_as_they_were(threads: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    maml = MAML(nn.Sequential(nn.Linear(100, 500), nn.ReLU(), nn.Linear(500, 100)), lr=0.01, steps=60)
    batch = tuple(torch.randn(40, 100, 100) for _ in range(4))
    cut_short(lambda: maml.backward(batch))
    assert all(parameter.grad is None for parameter in maml.parameters())


def test_a_handler_may_go_on_and_even_call_the_core(threads: int) -> None:
    case, small, steps = Case([50, 200, 50], 40, 100), Case([3, 4, 2], 5, 6), 50
    fast, expected = nans(case.tasks, case.size), nans(case.tasks, case.size)
    inner, known = nans(small.tasks, small.size), nans(small.tasks, small.size)
    losses, few = torch.empty(case.tasks, steps), torch.empty(small.tasks, 2)
    case.adapt(steps, threads, expected, losses)
    small.adapt(2, 1, known, few)
    with_alarm(lambda: small.adapt(2, 2, inner, few), lambda: case.adapt(steps, threads, fast, losses))
    assert torch.equal(inner, known)
    assert torch.equal(fast, expected)


def test_a_call_from_another_thread_runs_to_its_end() -> None:
    case, steps = Case([50, 200, 50], 40, 100), 50
    fast, losses = nans(case.tasks, case.size), nans(case.tasks, steps)

    def elsewhere() -> None:
        worker = threading.Thread(target=lambda: case.adapt(steps, 1, fast, losses))
        worker.start()
        worker.join()

    heard: list[bool] = []
    with_alarm(lambda: heard.append(True), elsewhere)
    assert heard == [True]
    assert not fast.isnan().any()
