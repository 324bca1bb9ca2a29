"""Networks of one input, whose samples the core orders to skip the units that they leave closed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import MetaGradient
from fastmaml.engines.cpu import CpuEngine
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import FirstOrder
from fastmaml.plan import InnerLr
from tests.csrc.conftest import core
from tests.csrc.networks import Problem, problem, relative

pytestmark = pytest.mark.usefixtures("restored")
CPU, REFERENCE = CpuEngine(), ReferenceEngine()
BOUNDS = {torch.float32: 2e-5, torch.float64: 1e-12}
FORMS = ("copies", "products", "auto")

CASES = {
    "sinusoid": lambda **a: problem([1, 40, 40, 1], tasks=9, support=10, query=10, activation=nn.ReLU, **a),
    "odd numbers": lambda **a: problem([1, 17, 64, 33, 3], tasks=5, support=7, query=13, activation=nn.ReLU, **a),
    "no bias": lambda **a: problem([1, 16, 20, 2], bias=False, activation=nn.ReLU, **a),
    "one sample": lambda **a: problem([1, 30, 1], support=1, query=1, activation=nn.ReLU, **a),
    "more samples than are ordered at once": lambda **a: problem(
        [1, 40, 24, 1], tasks=2, support=70, query=131, activation=nn.ReLU, **a
    ),
    "labels": lambda **a: problem([1, 40, 20, 5], loss="cross_entropy", support=9, activation=nn.ReLU, **a),
    "first order": lambda **a: problem([1, 40, 40, 1], rule=FirstOrder(), activation=nn.ReLU, **a),
}


def taken(p: Problem, form: str) -> MetaGradient:
    core.set_form(form)
    return CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)


def truth_of(p: Problem) -> MetaGradient:
    return REFERENCE.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)


def outputs_of(result: MetaGradient) -> Tensor:
    assert result.query_outputs is not None
    return result.query_outputs


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_reference(name: str, form: str, steps: int, dtype: torch.dtype, isa: str) -> None:
    p = CASES[name](steps=steps)
    truth, ours = truth_of(p), taken(p.to(dtype), form)
    assert relative(ours.gradient, truth.gradient) <= BOUNDS[dtype]
    assert relative(ours.query_losses, truth.query_losses) <= BOUNDS[dtype]
    assert relative(outputs_of(ours), outputs_of(truth)) <= BOUNDS[dtype]  # of samples as the user gave them


@pytest.mark.parametrize("steps", [1, 3])
def test_padded_samples_in_any_order(steps: int) -> None:
    p = problem([1, 20, 40, 1], tasks=6, support=9, query=8, ragged=True, activation=nn.ReLU, steps=steps)
    truth, ours = truth_of(p), taken(p, "auto")
    present = p.batch.query.weights != 0
    assert relative(ours.gradient, truth.gradient) <= 1e-12
    assert relative(outputs_of(ours)[present], outputs_of(truth)[present]) <= 1e-12


def permuted(p: Problem, generator: torch.Generator) -> tuple[Problem, Tensor]:
    support, query = p.batch.support, p.batch.query
    s, q = (torch.randperm(n, generator=generator) for n in (support.x.shape[1], query.x.shape[1]))
    batch = TaskBatch(Samples(support.x[:, s], support.y[:, s]), Samples(query.x[:, q], query.y[:, q]))
    return Problem(p.plan, p.parameters, p.inner_lr, batch, p.steps, p.rule), q


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_samples_changes_nothing(form: str) -> None:
    p = problem([1, 40, 40, 1], tasks=5, support=10, query=12, activation=nn.ReLU, steps=1).to(torch.float32)
    other, q = permuted(p, torch.Generator().manual_seed(0))
    first, second = taken(p, form), taken(other, form)
    assert torch.equal(first.gradient, second.gradient)  # bitwise: it is taken in an order of its own
    assert torch.equal(outputs_of(first)[:, q], outputs_of(second))


quiet = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(
    hidden=st.lists(st.integers(14, 66), min_size=1, max_size=3),
    outputs=st.integers(1, 4),
    tasks=st.integers(1, 9),
    support=st.integers(1, 20),
    query=st.integers(1, 20),
    steps=st.integers(1, 3),
    bias=st.booleans(),
    ragged=st.booleans(),
    loss=st.sampled_from(["mse", "cross_entropy"]),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 1000),
)
def test_any_shape(hidden: list[int], outputs: int, form: str, **shape: object) -> None:
    p = problem([1, *hidden, outputs], activation=nn.ReLU, **shape)  # type: ignore[arg-type]
    assert relative(taken(p, form).gradient, truth_of(p).gradient) <= 1e-11


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_parameter_that_is_not_finite_is_seen_behind_closed_units(form: str, value: float) -> None:
    p = problem([1, 20, 20, 1], tasks=4, activation=nn.ReLU, steps=1)
    weight = p.plan.slots[2]
    assert weight.shape == (20, 20)
    parameters = p.parameters.clone()
    first = parameters[:40]
    first[3] = first[23] = -1e-3  # unit 3: w x + b with both negative
    for s in (p.batch.support, p.batch.query):
        s.x.abs_()  # so that no sample opens it
    start = p.plan.slots[0].numel + p.plan.slots[1].numel
    parameters[start + 3] = value  # zero times infinity is not zero
    p = Problem(p.plan, parameters, p.inner_lr, p.batch, p.steps, p.rule)
    assert not truth_of(p).query_losses.isfinite().any()
    assert not taken(p, form).query_losses.isfinite().any()


@pytest.mark.parametrize("form", FORMS)
def test_nan_in_the_data_stays_with_its_task(form: str) -> None:
    p = problem([1, 40, 40, 1], tasks=5, support=10, query=10, activation=nn.ReLU, steps=1)
    p.batch.support.x[2, 4] = torch.nan
    assert taken(p, form).query_losses.isnan().nonzero().flatten().tolist() == [2]


def test_step_sizes_by_parameter_where_some_layers_have_weights_of_their_own() -> None:
    p = problem([1, 40, 40, 1], tasks=9, support=10, query=10, activation=nn.ReLU, steps=1)
    values = torch.cat([torch.full((slot.numel,), 0.01 * (1 + i)) for i, slot in enumerate(p.plan.slots)]).double()
    p = Problem(p.plan, p.parameters, InnerLr(values, True, False), p.batch, 1, p.rule)
    core.set_profiling(True)
    ours = taken(p, "auto")
    core.set_profiling(False)
    calls = {(pass_, layer) for pass_, layer, _, _, _ in core.profile()}
    assert {layer for pass_, layer in calls if pass_ == "input products"} == {1}
    assert relative(ours.gradient, truth_of(p).gradient) <= 1e-12
