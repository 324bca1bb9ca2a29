"""Policies: what they sample, how likely it is, how far two of them are apart, and that the core runs them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from fastmaml.plan import AppendLayer, Plan
from fastmaml.rl.policies import CategoricalPolicy, GaussianPolicy

OUTPUTS = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).double()


def distribution(policy, outputs):
    if policy is CategoricalPolicy:
        return Categorical(logits=outputs)
    mean, log_std = outputs.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


@pytest.mark.parametrize("policy", [GaussianPolicy, CategoricalPolicy])
def test_likelihood_and_divergence_are_those_of_torch(policy):
    old, new = OUTPUTS
    actions = distribution(policy, old).sample()
    torch.testing.assert_close(policy.log_prob(new, actions), distribution(policy, new).log_prob(actions))
    torch.testing.assert_close(policy.kl(old, new), kl_divergence(distribution(policy, old), distribution(policy, new)))


def test_gaussian_samples_have_their_moments():
    outputs = torch.tensor([0.5, -1.0, np.log(0.2), np.log(2.0)], dtype=torch.float32).expand(20_000, 4)
    actions = GaussianPolicy.sample(outputs, np.random.default_rng(0))
    torch.testing.assert_close(actions.mean(0), torch.tensor([0.5, -1.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(actions.std(0), torch.tensor([0.2, 2.0]), rtol=0.05, atol=0)


def test_categorical_samples_come_as_often_as_they_should():
    probabilities = torch.tensor([0.1, 0.6, 0.3])
    actions = CategoricalPolicy.sample(probabilities.log().expand(20_000, 3), np.random.default_rng(0))
    torch.testing.assert_close(actions.bincount(minlength=3) / 20_000, probabilities, rtol=0, atol=0.015)


@pytest.mark.parametrize("policy", [GaussianPolicy, CategoricalPolicy])
def test_the_seed_decides_weights_and_actions(policy):
    first, second = (policy(3, 2, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    draws = [policy.sample(OUTPUTS[0], np.random.default_rng(1)) for _ in range(2)]
    assert torch.equal(*draws)


def test_the_log_std_is_a_parameter_beside_the_outputs():
    policy = GaussianPolicy(3, 2, log_std=-0.5)
    plan = Plan.of(policy, policy.loss)
    assert plan.obstacle is None
    assert isinstance(plan.layers[-1], AppendLayer)
    assert plan.num_outputs == 4
    assert (policy(torch.randn(5, 3))[:, 2:] == -0.5).all()
