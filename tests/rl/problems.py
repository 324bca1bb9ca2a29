"""Small problems of policies for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fastmaml.batch import Samples
from fastmaml.plan import InnerLr, Plan
from fastmaml.rl.environments import BatchedEnvironment
from fastmaml.rl.meta import MetaPolicy, Settings
from fastmaml.rl.policies import CategoricalPolicy, GaussianPolicy, Policy

TASKS, SAMPLES, ACTIONS = 3, 70, 2
KINDS = {"gaussian": GaussianPolicy, "categorical": CategoricalPolicy}


def policy(kind: str, activation: type[nn.Module] = nn.Tanh) -> Policy:
    made = KINDS[kind](3, ACTIONS, (12, 9), activation, generator=torch.Generator().manual_seed(0))
    return made.double()


def plan_of(made: Policy) -> tuple[Plan, torch.Tensor, InnerLr]:
    """The plan of a policy, its parameters [P], and an inner step size of 0.1."""
    plan = Plan.of(made, made.loss)
    theta = plan.flatten(list(made.parameters())).detach()
    torch.manual_seed(1)
    theta = theta + 0.1 * torch.randn_like(theta)
    return plan, theta, InnerLr(torch.full_like(theta, 0.1))


def support(made: Policy, ragged: bool = False) -> Samples:
    """Random observations and actions of three tasks, advantages of either sign."""
    x = torch.randn(TASKS, SAMPLES, 3, dtype=torch.float64)
    outputs = made(x).detach()
    actions = type(made).sample(outputs, np.random.default_rng(0))
    targets = type(made).reinforce_targets(outputs, actions, torch.randn(TASKS, SAMPLES, dtype=torch.float64))
    weights = torch.ones(TASKS, SAMPLES, dtype=torch.float64) if ragged else None
    if weights is not None:
        weights[0, 40:] = weights[1, 65:] = 0
    return Samples(x, targets, weights)


class Corridor(BatchedEnvironment):
    """A point on a line: a task is the side on which walking is rewarded; two choices, episodes of two lengths."""

    observations, actions, discrete = 2, 2, True
    horizon = 5

    def sample_tasks(self, count, generator):
        return generator.choice([-1.0, 1.0], count)

    def reset(self, tasks, episodes, generator):
        self._sides = np.broadcast_to(tasks[:, None], (len(tasks), episodes))
        self._at = 0.1 * generator.standard_normal((len(tasks), episodes))
        return self._seen()

    def step(self, actions):
        moved = 2.0 * actions - 1
        self._at = self._at + moved
        return self._seen(), self._sides * moved, np.abs(self._at) > 2.5

    def _seen(self):
        return np.stack([self._at, np.ones_like(self._at)], -1)


def corridor(steps: int = 1, seed: int = 0, engine: str = "auto") -> MetaPolicy:
    made = CategoricalPolicy(2, 2, (8,), nn.Tanh, generator=torch.Generator().manual_seed(seed))
    return MetaPolicy(made, Corridor(), Settings(inner_lr=0.2, steps=steps, episodes=4), engine)
