"""The forms of a meta-gradient that keep no copies a task, or keep them side by side, against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import MetaGradient
from fastmaml.engines.cpu import CpuEngine
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import FirstOrder
from fastmaml.plan import InnerLr, Plan
from tests.csrc.conftest import core
from tests.csrc.networks import Problem, problem, relative
from tests.problems import weighted

pytestmark = pytest.mark.usefixtures("restored")
CPU, REFERENCE = CpuEngine(), ReferenceEngine()
BOUNDS = {torch.float32: 2e-5, torch.float64: 1e-12}

LANES = {
    "sinusoid": lambda: problem([1, 40, 40, 1], activation=nn.ReLU, tasks=19, support=10, query=10),
    "odd widths": lambda: problem([3, 7, 17, 5], tasks=5, support=1, query=13, steps=3),
    "one layer, no bias": lambda: problem([3, 7], bias=False, tasks=2),
    "ragged": lambda: problem([2, 9, 3], ragged=True, tasks=11),
    "labels, ragged": lambda: problem([6, 11, 5], loss="cross_entropy", ragged=True, tasks=9, steps=5),
    "first order": lambda: problem([6, 11, 5], loss="cross_entropy", rule=FirstOrder(), tasks=8),
    "one task": lambda: problem([4, 20, 3], tasks=1),
    "more steps than are kept": lambda: problem([4, 120, 120, 3], tasks=20, support=40, query=2, steps=9),
}
PRODUCTS = {
    "sinusoid": lambda: problem([1, 40, 40, 1], activation=nn.ReLU, tasks=25, support=10, query=10, steps=1),
    "odd widths": lambda: problem([3, 7, 17, 5], tasks=5, support=1, query=13, steps=1),
    "one layer, no bias": lambda: problem([3, 7], bias=False, tasks=2, steps=1),
    "labels": lambda: problem([30, 50, 64, 5], loss="cross_entropy", tasks=9, steps=1),
    "wide": lambda: problem([200, 130, 1, 90, 5], loss="cross_entropy", tasks=4, steps=1, support=6, query=3),
    "no transposed copy": lambda: problem([4, 3, 300], tasks=1, steps=1, support=2, query=2),
    "Gaussian policy": lambda: problem([3, 20, 8], loss="categorical", tasks=4, steps=1),
    "first order": lambda: problem([6, 11, 5], loss="cross_entropy", rule=FirstOrder(), tasks=8, steps=1),
    "one task of many samples": lambda: problem([4, 20, 3], tasks=1, support=70, query=50, steps=1),
}
CASES = [("lanes", name) for name in LANES] + [("products", name) for name in PRODUCTS]


def made(form: str, name: str) -> Problem:
    return (LANES if form == "lanes" else PRODUCTS)[name]()


def taken(p: Problem, form: str) -> MetaGradient:
    """The meta-gradient in this form, which must be the one that is taken."""
    core.set_form(form)
    core.set_profiling(True)
    result = CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)
    core.set_profiling(False)
    calls = {pass_: calls for pass_, _, calls, _, _ in core.profile()}
    assert ("input products" in calls) == (form == "products")
    if form == "lanes":  # which gathers both sets of a group at once
        assert calls["gather"] <= (p.batch.support.num_tasks + 1) // 2
    return result


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("form", "name"), CASES)
def test_it_equals_the_reference(form: str, name: str, dtype: torch.dtype, isa: str) -> None:
    p = made(form, name)
    truth = REFERENCE.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)
    torch.set_num_threads(7)
    ours = taken(p.to(dtype), form)
    assert relative(ours.gradient, truth.gradient) <= BOUNDS[dtype]
    assert relative(ours.query_losses, truth.query_losses) <= BOUNDS[dtype]
    assert ours.query_outputs is not None
    assert truth.query_outputs is not None
    assert relative(ours.query_outputs, truth.query_outputs) <= BOUNDS[dtype]


def shapes(**more: st.SearchStrategy[object]) -> dict[str, st.SearchStrategy[object]]:
    return {
        "widths": st.lists(st.integers(1, 50), min_size=2, max_size=5),
        "tasks": st.integers(1, 20),
        "support": st.integers(1, 12),
        "query": st.integers(1, 12),
        "activation": st.sampled_from([nn.ReLU, nn.Tanh]),
        "bias": st.booleans(),
        "seed": st.integers(0, 1000),
        **more,
    }


def close_in_float64(p: Problem, form: str) -> None:
    truth = REFERENCE.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)
    core.set_form(form)
    ours = CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)
    assert relative(ours.gradient, truth.gradient) <= 1e-11


quiet = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(**shapes(steps=st.integers(1, 4), ragged=st.booleans(), loss=st.sampled_from(["mse", "cross_entropy"])))
def test_any_shape_in_lanes(**arguments: object) -> None:
    close_in_float64(problem(**arguments), "lanes")  # type: ignore[arg-type]


@quiet
@given(**shapes(loss=st.sampled_from(["mse", "cross_entropy", "categorical"])))
def test_any_shape_in_products(**arguments: object) -> None:
    close_in_float64(problem(steps=1, **arguments), "products")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["front", "relu behind tanh", "relu last"])
@pytest.mark.parametrize("form", ["lanes", "products"])
def test_activations_in_odd_places(module: str, form: str) -> None:
    torch.manual_seed(0)
    first, last = nn.Linear(4, 9), nn.Linear(9, 3)
    layers: dict[str, list[nn.Module]] = {
        "front": [nn.ReLU(), nn.Tanh(), first, nn.ReLU(), last],
        "relu behind tanh": [first, nn.Tanh(), nn.ReLU(), last],
        "relu last": [first, nn.ReLU(), last, nn.ReLU()],
    }
    net = nn.Sequential(*layers[module]).double()
    like = problem([4, 9, 3], tasks=6, steps=1)
    plan = Plan.of(net, "mse")
    parameters = plan.flatten(list(net.parameters())).detach()
    lr = InnerLr(torch.full_like(parameters, 0.05), True, False)
    close_in_float64(Problem(plan, parameters, lr, like.batch, 1, like.rule), form)


def test_step_sizes_by_element_in_lanes() -> None:
    p = problem([3, 8, 2], tasks=9, steps=3)
    lr = InnerLr(torch.rand_like(p.parameters) * 0.1, False, False)
    close_in_float64(Problem(p.plan, p.parameters, lr, p.batch, p.steps, p.rule), "lanes")


def test_step_sizes_by_parameter_in_products() -> None:
    p = problem([3, 8, 2], tasks=9, steps=1)
    values = torch.cat([torch.full((slot.numel,), 0.02 * (1 + i)) for i, slot in enumerate(p.plan.slots)]).double()
    close_in_float64(Problem(p.plan, p.parameters, InnerLr(values, True, False), p.batch, 1, p.rule), "products")


@pytest.mark.parametrize(("form", "name"), CASES)
def test_bitwise_the_same_for_any_number_of_threads(form: str, name: str, isa: str) -> None:
    p = made(form, name).to(torch.float32)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(taken(p, form).gradient)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("form", ["lanes", "products"])
@pytest.mark.parametrize("set_name", ["support", "query"])
def test_a_label_out_of_range_is_named(form: str, set_name: str) -> None:
    p = problem([4, 9, 3], tasks=11, loss="cross_entropy", steps=1)
    getattr(p.batch, set_name).y[9, 2] = 3
    core.set_form(form)
    with pytest.raises(ValueError, match=rf"{set_name}\.y: label 3 of task 9, sample 2 is out of range"):
        CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)


def test_a_task_without_weight_is_named_in_lanes() -> None:
    p = problem([4, 9, 3], tasks=11, ragged=True)
    assert p.batch.query.weights is not None
    p.batch.query.weights[10] = 0
    core.set_form("lanes")
    with pytest.raises(ValueError, match=r"query\.weights: all weights of task 10 are zero"):
        CPU.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)


def test_samples_of_no_weight_may_hold_anything_in_lanes() -> None:
    p = problem([4, 9, 3], tasks=9, ragged=True)
    spoilt = [Samples(s.x.clone(), s.y.clone(), s.weights) for s in (p.batch.support, p.batch.query)]
    for s in spoilt:
        assert s.weights is not None
        s.x[s.weights == 0] = torch.nan
        s.y[s.weights == 0] = torch.nan
    q = Problem(p.plan, p.parameters, p.inner_lr, TaskBatch(*spoilt), p.steps, p.rule)
    assert torch.equal(taken(p, "lanes").gradient, taken(q, "lanes").gradient)


@pytest.mark.parametrize("form", ["lanes", "products"])
def test_nan_in_a_task_reaches_its_loss_and_no_other(form: str) -> None:
    p = problem([4, 9, 3], tasks=9, steps=1)
    p.batch.query.x[3, 0, 0] = torch.nan
    result = taken(p, form)
    assert result.query_losses.isnan().nonzero().flatten().tolist() == [3]
    assert result.gradient.isnan().any()


def test_form_names() -> None:
    with pytest.raises(ValueError, match="allowed are 'auto', 'copies', 'lanes' and 'products'"):
        core.set_form("wide")


WEIGHTED = {
    "copies": lambda: problem([4, 12, 3], tasks=5, ragged=True),
    "copies, first layer by Gram matrices": lambda: problem([300, 20, 5], loss="cross_entropy", tasks=4, steps=3),
    "lanes": LANES["sinusoid"],
    "lanes, ragged": LANES["labels, ragged"],
    "products, which weigh no tasks": PRODUCTS["sinusoid"],
}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_tasks(name: str, dtype: torch.dtype, isa: str) -> None:
    p = WEIGHTED[name]()
    batch = weighted(p.batch)
    truth = REFERENCE.meta_gradient(p.plan, p.parameters, p.inner_lr, batch, p.steps, p.rule)
    q = p.to(dtype)
    core.set_form(name.partition(",")[0])
    ours = CPU.meta_gradient(q.plan, q.parameters, q.inner_lr, batch.to(dtype), q.steps, q.rule)
    equal = CPU.meta_gradient(q.plan, q.parameters, q.inner_lr, q.batch, q.steps, q.rule)
    assert relative(ours.gradient, truth.gradient) <= BOUNDS[dtype]
    assert relative(ours.query_losses, truth.query_losses) <= BOUNDS[dtype]
    assert relative(equal.gradient, truth.gradient) > 1e-3
