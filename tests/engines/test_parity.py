"""Every engine against the reference in float64, over everything that a Plan can say."""

import pytest
import torch
from torch import nn

from fastmaml import FirstOrder, SecondOrder, TaskBatch
from fastmaml.engines import get
from fastmaml.plan import InnerLr, Plan
from tests.problems import ON_CPU, inner_lr, network, parameters_of, relative_error, task_batch

REFERENCE = get("reference")
ENGINES = [name for name in ON_CPU if name != "reference"]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
pytestmark = pytest.mark.usefixtures("poisoned")


def check(name, plan, batch, steps=2, rule=SecondOrder(), lr=None, dtype=torch.float64):  # noqa: B008
    """All four verbs of an engine in `dtype` against the reference in float64."""
    engine, lr, tolerance = get(name), lr or inner_lr(plan), TOLERANCES[dtype]
    theta = parameters_of(plan)
    wanted = verbs(REFERENCE, plan, theta, lr, batch, steps, rule)
    plan.module.to(dtype)
    cast = InnerLr(lr.values.to(dtype), lr.uniform, lr.learned)
    given = verbs(engine, plan, theta.to(dtype), cast, batch.to(dtype), steps, rule)
    for key, tensor in wanted.items():
        assert given[key].dtype == dtype, key
        assert given[key].shape == tensor.shape, key
        assert relative_error(given[key], tensor) < tolerance, key


def verbs(engine, plan, theta, lr, batch, steps, rule):
    result = engine.meta_gradient(plan, theta, lr, batch, steps, rule)
    fast, losses = engine.adapt(plan, theta, lr, batch.support, steps)
    again, _ = engine.adapt(plan, fast, lr, batch.support, 1)
    unpadded = 1 if batch.query.weights is None else (batch.query.weights > 0)[..., None]
    found = {
        "query_losses": result.query_losses,
        "gradient": result.gradient,
        "query_outputs": torch.where(torch.as_tensor(unpadded) > 0, result.query_outputs, 0),
        "fast": fast,
        "losses": losses,
        "again": again,
        "outputs": engine.predict(plan, fast, batch.query.x),
        "hvp": engine.hvp(plan, fast, batch.support, fast.flip(1).contiguous()),
    }
    if lr.learned:
        found["inner_lr_gradient"] = result.inner_lr_gradient
    assert (result.inner_lr_gradient is not None) == lr.learned
    return found


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("rule", [SecondOrder(), FirstOrder()], ids=["second", "first"])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_grid(name, loss, norm, ragged, rule):
    plan, batch = Plan.of(network(norm=norm), loss), task_batch(loss=loss, ragged=ragged)
    refused = get(name).data_refusal(plan, batch.support) is not None
    assert refused == (name == "functional" and norm and ragged)
    if not refused:
        check(name, plan, batch, rule=rule)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_float32(name, norm):
    plan = Plan.of(network(norm=norm), "cross_entropy")
    check(name, plan, task_batch(support=8, query=8, loss="cross_entropy"), dtype=torch.float32)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("tasks", "support", "query", "steps"), [(1, 1, 1, 1), (5, 1, 7, 4), (17, 3, 2, 1)])
def test_sizes(name, tasks, support, query, steps):
    check(name, Plan.of(network((3, 33, 2))), task_batch(tasks, support, query), steps=steps)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("widths", [(3, 2), (1, 1), (3, 40, 40, 40, 40, 40, 2)])
def test_depths(name, widths):
    batch = task_batch(inputs=widths[0], outputs=widths[-1])
    check(name, Plan.of(network(widths)), batch)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_relu_and_layers_without_bias_or_scale(name, loss):
    module = nn.Sequential(
        nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()
    )
    check(name, Plan.of(module.double(), loss), task_batch(outputs=4, loss=loss))


@pytest.mark.parametrize("name", ENGINES)
def test_flattened_images(name):
    plan = Plan.of(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)).double())
    flat = task_batch(inputs=12)
    images = TaskBatch(*(type(s)(s.x.reshape(*s.x.shape[:2], 3, 2, 2), s.y) for s in (flat.support, flat.query)))
    check(name, plan, images)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("rule", [SecondOrder(), FirstOrder()], ids=["second", "first"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
def test_subsets_and_a_learned_step_size_of_every_element(name, norm, rule):
    module = network(norm=norm)
    module[0].bias.requires_grad_(False)
    plan = Plan.of(module, "cross_entropy", adapted=["*.bias", "0.weight"], meta_learned=["*.weight"])
    assert len({(slot.adapted, slot.meta_learned) for slot in plan.slots}) == 4
    values = torch.rand(plan.num_parameters).double() * (inner_lr(plan).values > 0)
    check(name, plan, task_batch(loss="cross_entropy"), rule=rule, lr=InnerLr(values, uniform=False, learned=True))


@pytest.mark.parametrize("name", ENGINES)
def test_one_step_size_for_each_parameter(name):
    plan = Plan.of(network())
    values = torch.cat([torch.full((slot.numel,), 0.02 * i) for i, slot in enumerate(plan.slots)]).double()
    check(name, plan, task_batch(), lr=InnerLr(values, learned=True))


@pytest.mark.parametrize("name", ENGINES)
def test_padding_may_hold_anything(name):
    plan, batch = Plan.of(network(), "cross_entropy"), task_batch(loss="cross_entropy", ragged=True)
    spoilt = []
    for part in (batch.support, batch.query):
        padding = part.weights == 0
        x, y = part.x.masked_fill(padding[..., None], torch.nan), part.y.masked_fill(padding, -100)
        spoilt.append(type(part)(x, y, part.weights))
    theta, lr = parameters_of(plan), inner_lr(plan)
    given = get(name).meta_gradient(plan, theta, lr, TaskBatch(*spoilt), 2, SecondOrder())
    wanted = REFERENCE.meta_gradient(plan, theta, lr, batch, 2, SecondOrder())
    assert relative_error(given.gradient, wanted.gradient) < 1e-12
    assert relative_error(given.query_losses, wanted.query_losses) < 1e-12


@pytest.mark.parametrize("name", ON_CPU)
def test_results_are_fresh_and_arguments_as_they_were(name):
    engine, plan, batch = get(name), Plan.of(network()), task_batch()
    theta, lr = parameters_of(plan), inner_lr(plan)
    before = [t.clone() for t in (theta, lr.values, batch.support.x, batch.query.y)]
    fast, _ = engine.adapt(plan, theta, lr, batch.support, 0)
    fast.zero_()
    first = engine.meta_gradient(plan, theta, lr, batch, 1, SecondOrder())
    kept = first.gradient.clone()
    second = engine.meta_gradient(plan, theta, lr, batch, 1, SecondOrder())
    second.gradient.zero_()
    assert torch.equal(first.gradient, kept)
    assert all(
        torch.equal(a, b) for a, b in zip((theta, lr.values, batch.support.x, batch.query.y), before, strict=True)
    )
    assert not any(t.requires_grad for t in (fast, first.gradient, first.query_losses, first.query_outputs))
