"""MAML of policies: sampling, the inner step by REINFORCE, and adaptation at test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmaml import engines
from fastmaml.engines.base import Engine
from fastmaml.inner_lr import InnerLrOf, by_slot
from fastmaml.plan import InnerLr, Plan
from fastmaml.rl.environments import BatchedEnvironment
from fastmaml.rl.outer import Problem
from fastmaml.rl.policies import Policy
from fastmaml.rl.rollouts import Episodes, advantages, as_samples, sample


@dataclass(frozen=True)
class Settings:
    """inner_lr: α. episodes: E, of each task before and after adaptation. discount: γ. gae: λ."""

    inner_lr: float = 0.1
    episodes: int = 20
    discount: float = 0.99
    gae: float = 1.0


class MetaPolicy:
    """A policy whose parameters are an initialisation, with the engine that adapts it to all tasks at once.

    Raises:
        ValueError: where policy and environment do not fit, or no engine runs the policy.
    """

    def __init__(
        self, policy: Policy, environment: BatchedEnvironment, settings: Settings, engine: str = "auto"
    ) -> None:
        self.policy, self.environment, self.settings = policy, environment, settings
        _check_fits(policy, environment)
        self.plan = Plan.of(policy, policy.loss)
        like = next(policy.parameters()).detach()
        self.inner_lr = self.step_size(settings.inner_lr)
        self.engine: Engine = (
            engines.get(engine)
            if engine != "auto"
            else engines.choose(self.plan, None, like.device, like.dtype, self.inner_lr)[0]
        )
        if (reason := self.engine.refusal(self.plan, None, like.device, like.dtype, self.inner_lr)) is not None:
            raise ValueError(f"engine: {self.engine.name!r} does not run this policy: {reason}; or give engine='auto'")

    def step_size(self, lr: float) -> InnerLr:
        like = next(self.policy.parameters()).detach()
        return InnerLrOf(self.plan, by_slot(lr, self.plan), like).fixed

    @property
    def theta(self) -> Tensor:
        """The shared parameters [P]."""
        return self.plan.flatten(list(self.policy.parameters())).detach()

    def put(self, theta: Tensor) -> None:
        """Sets the shared parameters."""
        named = self.plan.unflatten(theta)
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                parameter.copy_(named[name])

    def sample(self, fast: Tensor, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> Episodes:
        """Episodes of the tasks' own policies with parameters [T, P]."""
        return sample(
            self.environment,
            type(self.policy),
            lambda observations: self.engine.predict(self.plan, fast, observations),
            tasks,
            episodes,
            generator,
        )

    def problem(self, tasks: np.ndarray, generator: np.random.Generator) -> tuple[Problem, Episodes]:
        """Samples, takes the inner step and samples again: the surrogate objective, and the episodes before it."""
        s, theta, kind = self.settings, self.theta, type(self.policy)
        starts = theta.expand(len(tasks), -1).contiguous()
        before = self.sample(starts, tasks, s.episodes, generator)
        support = as_samples(kind, before, advantages(before, s.discount, s.gae))
        fast, _ = self.engine.adapt(self.plan, theta, self.inner_lr, support, 1)
        after = self.sample(fast, tasks, s.episodes, generator)
        gains = advantages(after, s.discount, s.gae)
        return Problem(self.engine, self.plan, kind, self.inner_lr, support, after, gains, theta, fast), before

    def evaluate(
        self, tasks: np.ndarray, steps: int, episodes: int, lrs: Sequence[float], generator: np.random.Generator
    ) -> tuple[Tensor, list[Episodes], Tensor]:
        """Adapts to tasks step by step, sampling anew before each.

        Args:
            lrs: the size of each step; the last counts for all further ones.
        Returns:
            returns [steps + 1, T]; the episodes of each step; the adapted parameters [T, P].
        """
        fast, kind, s = self.theta.expand(len(tasks), -1).contiguous(), type(self.policy), self.settings
        runs = [self.sample(fast, tasks, episodes, generator)]
        for step in range(steps):
            support = as_samples(kind, runs[-1], advantages(runs[-1], s.discount, s.gae))
            fast, _ = self.engine.adapt(self.plan, fast, self.step_size(lrs[min(step, len(lrs) - 1)]), support, 1)
            runs.append(self.sample(fast, tasks, episodes, generator))
        return torch.stack([run.returns for run in runs]), runs, fast


def _check_fits(policy: Policy, environment: BatchedEnvironment) -> None:
    wanted = "categorical" if environment.discrete else "gaussian"
    if policy.loss != wanted:
        raise ValueError(
            f"policy: given {type(policy).__name__}, but the environment's actions are "
            f"{'discrete' if environment.discrete else 'continuous'}; give a "
            f"{'CategoricalPolicy' if environment.discrete else 'GaussianPolicy'}"
        )
    inputs = policy.layers[0].in_features
    if (inputs, policy.actions) != (environment.observations, environment.actions):
        raise ValueError(
            f"policy: takes {inputs} observations and gives {policy.actions} actions, but the environment has "
            f"{environment.observations} and {environment.actions}; build the policy for it"
        )
