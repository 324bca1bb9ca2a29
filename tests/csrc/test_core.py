"""Every verb of the core against the float64 reference, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fastmaml.engines.cpu import CpuEngine
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import FirstOrder
from tests.csrc.networks import Problem, problem, relative

CPU, REFERENCE = CpuEngine(), ReferenceEngine()

CASES = {
    "sinusoid": lambda: problem([1, 40, 40, 1], tasks=4, support=10, query=10),
    "one layer": lambda: problem([3, 7], loss="cross_entropy"),
    "narrow": lambda: problem([1, 5, 3, 1], ragged=True),
    "odd widths, batch norm": lambda: problem([40, 17, 33, 5], norm="affine", loss="cross_entropy", ragged=True),
    "no bias": lambda: problem([30, 31, 1, 33, 2], bias=False),
    "Gram": lambda: problem([200, 64, 32, 5], norm="affine", loss="cross_entropy", steps=1),
    "Gram, ragged": lambda: problem([200, 64, 5], loss="cross_entropy", steps=3, ragged=True),
    "first order": lambda: problem([200, 64, 5], loss="cross_entropy", rule=FirstOrder()),
    "learned lr": lambda: problem([20, 16, 5], norm="plain", learned=True, steps=3),
    "learned lr, first order": lambda: problem([20, 16, 5], learned=True, steps=3, rule=FirstOrder()),
    "many samples": lambda: problem([33, 7, 9, 70], support=30, query=20),
    "Gaussian policy": lambda: problem([2, 100, 100, 2], loss="gaussian", support=30, query=20, ragged=True),
    "Gaussian policy, learned lr": lambda: problem([3, 20, 9], loss="gaussian", steps=3, learned=True),
    "Gaussian policy, Gram": lambda: problem([200, 32, 3], loss="gaussian", steps=2),
    "Gaussian policy, ReLU": lambda: problem([4, 30, 3], loss="gaussian", activation=nn.ReLU),
    "categorical policy": lambda: problem([4, 30, 5], loss="categorical", ragged=True, steps=2),
    "one task": lambda: problem([2, 100, 100, 2], tasks=1, support=20, query=20),
}
BOUNDS = {torch.float32: 2e-5, torch.float64: 1e-12}


def errors(p: Problem, dtype: torch.dtype) -> dict[str, float]:
    q = p.to(dtype)
    truth = REFERENCE.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule)
    ours = CPU.meta_gradient(q.plan, q.parameters, q.inner_lr, q.batch, q.steps, q.rule)
    fast, losses = REFERENCE.adapt(p.plan, p.parameters, p.inner_lr, p.batch.support, p.steps)
    our_fast, our_losses = CPU.adapt(q.plan, q.parameters, q.inner_lr, q.batch.support, q.steps)
    vectors = torch.randn_like(fast)
    found = {
        "query losses": relative(ours.query_losses, truth.query_losses),
        "meta-gradient": relative(ours.gradient, truth.gradient),
        "fast parameters": relative(our_fast, fast),
        "support losses": relative(our_losses, losses),
        "predictions": relative(
            CPU.predict(q.plan, fast.to(dtype), q.batch.query.x), REFERENCE.predict(p.plan, fast, p.batch.query.x)
        ),
        "hvp": relative(
            CPU.hvp(q.plan, fast.to(dtype), q.batch.support, vectors.to(dtype)),
            REFERENCE.hvp(p.plan, fast, p.batch.support, vectors),
        ),
    }
    if truth.inner_lr_gradient is not None:
        assert ours.inner_lr_gradient is not None
        found["inner lr gradient"] = relative(ours.inner_lr_gradient, truth.inner_lr_gradient)
    return found


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_verb_equals_the_reference(case: str, dtype: torch.dtype, isa: str) -> None:
    found = errors(CASES[case](), dtype)
    assert all(error <= BOUNDS[dtype] for error in found.values()), found


widths = st.lists(st.integers(1, 50), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    widths=widths,
    tasks=st.integers(1, 5),
    support=st.integers(1, 12),
    query=st.integers(1, 12),
    steps=st.integers(1, 4),
    activation=st.sampled_from([nn.Tanh, nn.ReLU]),
    norm=st.sampled_from(["none", "plain", "affine"]),
    loss=st.sampled_from(["mse", "cross_entropy", "gaussian", "categorical"]),
    ragged=st.booleans(),
    learned=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape_in_float64(**arguments: object) -> None:
    if arguments["norm"] != "none":  # one or two samples leave batch norm nothing but rounding to divide by
        arguments["support"] = max(int(arguments["support"]), 4)  # type: ignore[call-overload]
        arguments["query"] = max(int(arguments["query"]), 4)  # type: ignore[call-overload]
    found = errors(problem(**arguments), torch.float64)  # type: ignore[arg-type]
    assert all(error <= 1e-8 for error in found.values()), found


@pytest.mark.parametrize(
    "module", [nn.Sequential(nn.ReLU(), nn.Linear(6, 3)), nn.Sequential(nn.Linear(6, 3), nn.ReLU())]
)
@pytest.mark.parametrize("front", [nn.Identity, nn.Tanh])
def test_activations_in_odd_places(module: nn.Sequential, front: type[nn.Module]) -> None:
    from fastmaml.plan import Plan

    base = problem([6, 3])
    plan = Plan.of(nn.Sequential(front(), *module).double(), "mse")
    p = Problem(plan, base.parameters, base.inner_lr, base.batch, 2, base.rule)
    found = errors(p, torch.float64)
    assert all(error <= 1e-12 for error in found.values()), found
