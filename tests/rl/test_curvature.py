"""Gradient and curvature of the outer update, in every engine, against autograd through autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastmaml import engines
from fastmaml.batch import Samples, TaskBatch
from fastmaml.plan import InnerLr
from fastmaml.rl import reference
from fastmaml.rl.adaptation import Adaptation
from fastmaml.rl.curvature import Curvature, conjugate_gradient
from tests.problems import relative_error
from tests.rl.problems import plan_of, policy, support

BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}


def cast(samples: Samples, dtype: torch.dtype) -> Samples:
    return Samples(
        *(None if tensor is None else tensor.to(dtype) for tensor in (samples.x, samples.y, samples.weights))
    )


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("engine", ["cpu", "functional", "reference"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_gradient_and_curvature_equal_the_reference(kind, steps, activation, engine, dtype):
    made = policy(kind, activation)
    plan, theta, inner_lr = plan_of(made)
    samples, query = support(made, ragged=True), support(made)
    exact = Adaptation.of(engines.get("reference"), plan, theta, inner_lr, [samples] * steps)
    outputs = engines.get("reference").predict(plan, exact.fast.expand(3, -1), query.x)
    divergence = Samples(query.x, type(made).kl_targets(outputs))
    vector = torch.randn_like(theta)
    truth = reference.gradient(plan, theta, inner_lr.values, TaskBatch(samples, query), steps)
    curved = reference.curvature(plan, theta, inner_lr.values, TaskBatch(samples, divergence), steps)(vector)

    low = InnerLr(inner_lr.values.to(dtype))
    ran, start = engines.get(engine), theta.to(dtype)
    low_plan = plan if dtype == torch.float64 else plan_of(policy(kind, activation).float())[0]
    adaptation = Adaptation.of(ran, low_plan, start, low, [cast(samples, dtype)] * steps)
    fast = adaptation.fast.expand(3, -1).contiguous()
    found = ran.linearise(low_plan, fast, cast(query, dtype)).gradient
    assert relative_error(adaptation.pull_back(found).mean(0), truth) <= BOUNDS[dtype]
    kept = ran.linearise(low_plan, fast, cast(divergence, dtype), stationary=True)
    assert relative_error(Curvature(adaptation, kept, 0.0)(vector.to(dtype)), curved) <= BOUNDS[dtype]


def test_forward_and_back_are_each_others_transpose():
    made = policy("gaussian")
    plan, theta, inner_lr = plan_of(made)
    adaptation = Adaptation.of(engines.get("cpu"), plan, theta, inner_lr, [support(made), support(made)])
    u, v = torch.randn(2, 3, plan.num_parameters, dtype=torch.float64)
    torch.testing.assert_close((u * adaptation.push_forward(v)).sum(), (adaptation.pull_back(u) * v).sum())


def test_conjugate_gradient_solves_and_knows_its_image():
    torch.manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, dtype=torch.float64)
    x, image = conjugate_gradient(matrix.mv, b, 6, 0.0)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b))
    early, image = conjugate_gradient(matrix.mv, b, 3, 0.0)
    torch.testing.assert_close(image, matrix @ early)
    calls = []
    conjugate_gradient(lambda v: calls.append(1) or v, b, 10, 1e-20)
    assert len(calls) == 1  # the identity is solved by one product
