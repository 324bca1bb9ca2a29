"""The outer updates on a small environment."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fastmaml.plan import Plan
from fastmaml.rl.outer import PPO, TRPO, PolicyGradient
from fastmaml.rl.policies import GaussianPolicy
from tests.rl.problems import corridor


def problem(steps: int = 1, engine: str = "auto"):
    meta, generator = corridor(steps, engine=engine), np.random.default_rng(0)
    return meta.problem(meta.environment.sample_tasks(6, generator), generator)[0]


def test_the_curvature_is_the_second_order_of_the_divergence():
    p = problem()
    v = torch.randn(len(p.theta), generator=torch.Generator().manual_seed(0))
    curved = v @ p.curvature(0.0)(v)
    for size in (0.03, -0.03):
        divergence = p.kl(p.outputs(p.adapt(p.theta + size * v)))
        assert divergence == pytest.approx(0.5 * size**2 * curved.item(), rel=0.1)


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("outer", [TRPO(), TRPO(kl=1e-4), PolicyGradient(0.01), PPO(0.01, epochs=3)])
def test_every_update_lowers_the_surrogate(outer, steps):
    p = problem(steps)
    update = outer.update(p)
    assert update.accepted
    assert update.after < update.before
    assert 0 < update.kl < 0.05
    if isinstance(outer, TRPO):
        assert update.kl <= outer.kl
    outputs = p.outputs(p.adapt(update.theta))
    assert (p.surrogate(outputs), p.kl(outputs)) == pytest.approx((update.after, update.kl))


def test_the_gradient_is_that_of_the_surrogate():
    p = problem(2)
    gradient = p.gradient(p.adaptation, p.advantages)
    v = torch.randn(len(p.theta), generator=torch.Generator().manual_seed(0))
    up, down = (p.surrogate(p.outputs(p.adapt(p.theta + size * v))) for size in (0.01, -0.01))
    assert (up - down) / 0.02 == pytest.approx((gradient @ v).item(), rel=0.02)


def test_without_advantages_trpo_changes_nothing():
    p = problem()
    update = TRPO().update(dataclasses.replace(p, advantages=torch.zeros_like(p.advantages)))
    assert not update.accepted
    assert torch.equal(update.theta, p.theta)


def test_ppo_leaves_out_ratios_beyond_its_clip():
    p = problem()
    first = p.theta - 0.5 * p.gradient(p.adaptation, p.advantages)
    adaptation = p.adapt(first)
    ratios = p.ratios(p.outputs(adaptation))
    moved = torch.where(p.advantages > 0, ratios > 1.05, ratios < 0.95)  # as far as they may
    assert moved.any()
    assert not moved.all()
    expected = first - 0.5 * p.gradient(adaptation, torch.where(moved, 0, p.advantages * ratios))
    torch.testing.assert_close(PPO(0.5, epochs=2, clip=0.05).update(p).theta, expected)


def test_a_gradient_that_is_not_finite_is_told():
    p = problem()
    bad = dataclasses.replace(p, advantages=p.advantages * float("inf"))
    with pytest.raises(FloatingPointError, match="gradient or its curvature is not finite; a lower inner lr"):
        TRPO().update(bad)


@pytest.mark.parametrize("engine", ["functional", "reference"])
def test_every_engine_takes_the_same_step(engine):
    ours, theirs = (TRPO(damping=0.01).update(problem(engine=name)) for name in ("cpu", engine))
    torch.testing.assert_close(ours.theta, theirs.theta, rtol=1e-3, atol=1e-4)


def test_the_gpu_engine_takes_policies_and_names_what_it_does_not_take():
    engine = pytest.importorskip("fastmaml.engines.gpu").GpuEngine()
    policy = GaussianPolicy(2, 2)
    assert engine.refusal(Plan.of(policy, "gaussian")) is None
    assert "float32" in engine.refusal(Plan.of(policy, "gaussian"), dtype=torch.float64)
