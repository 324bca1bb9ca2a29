"""MAML of policies: sampling, the inner step by REINFORCE, and adaptation at test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastmaml import engines
from fastmaml.batch import Samples
from fastmaml.engines.base import Engine, Linearised
from fastmaml.plan import InnerLr, Plan
from fastmaml.plan.inner_lr import InnerLrOf, by_slot
from fastmaml.rl.adaptation import Adaptation
from fastmaml.rl.environments import BatchedEnvironment
from fastmaml.rl.outer import Problem
from fastmaml.rl.policies import Policy
from fastmaml.rl.rollouts import Episodes, advantages, as_samples, sample


@dataclass(frozen=True)
class Settings:
    """How a policy adapts.

    Args:
        inner_lr: α, of training. steps: K, inner steps of training; 0 trains a policy that does not adapt, on all tasks
            at once. episodes: E, of each task at each step and after the last. discount: γ. gae: λ.
    Raises:
        ValueError: for one that is out of its range.
    """

    inner_lr: float = 0.1
    steps: int = 1
    episodes: int = 20
    discount: float = 0.99
    gae: float = 1.0

    def __post_init__(self) -> None:
        for name, minimum in (("steps", 0), ("episodes", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f"{name}: given {value!r}; allowed are integers from {minimum}")
        for name in ("discount", "gae"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: given {getattr(self, name)!r}; allowed are numbers from 0 to 1")


@dataclass(frozen=True, eq=False)
class Judged:
    """What adapting to tasks step by step has given.

    Args:
        returns: [steps + 1, T], undiscounted, the mean over a task's episodes.
        episodes: of each number of steps. fast: the parameters after the last [T, P].
    """

    returns: Tensor
    episodes: list[Episodes]
    fast: Tensor


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

    def problem(self, tasks: np.ndarray, generator: np.random.Generator) -> tuple[Problem, list[Episodes]]:
        """Samples and takes the inner steps, and samples again: the surrogate objective, and all episodes."""
        theta = self.theta
        supports: list[Samples] = []
        runs: list[Episodes] = []
        steps: list[Linearised] = []
        fast = theta.expand(len(tasks), -1)
        for _ in range(self.settings.steps):
            runs.append(self.sample(fast.contiguous(), tasks, self.settings.episodes, generator))
            supports.append(self._support(runs[-1]))
            step = Adaptation.of(self.engine, self.plan, fast if steps else theta, self.inner_lr, supports[-1:])
            steps.extend(step.steps)
            fast = step.fast
        runs.append(self.sample(fast.contiguous(), tasks, self.settings.episodes, generator))
        adaptation = Adaptation(fast, self.inner_lr.values, tuple(steps))
        gains = advantages(runs[-1], self.settings.discount, self.settings.gae)
        kind = type(self.policy)
        return Problem(
            self.engine, self.plan, kind, self.inner_lr, tuple(supports), runs[-1], gains, theta, adaptation
        ), runs

    def evaluate(
        self, tasks: np.ndarray, steps: int, episodes: int, lrs: Sequence[float], generator: np.random.Generator
    ) -> Judged:
        """Adapts to tasks [T, ...] step by step, sampling anew before each.

        Args:
            steps: how many. episodes: E, of each task before each step and after the last.
            lrs: the size of each step; the last counts for all further ones.
        """
        fast = self.theta.expand(len(tasks), -1).contiguous()
        runs = [self.sample(fast, tasks, episodes, generator)]
        for step in range(steps):
            lr = self.step_size(lrs[min(step, len(lrs) - 1)])
            fast, _ = self.engine.adapt(self.plan, fast, lr, self._support(runs[-1]), 1)
            runs.append(self.sample(fast, tasks, episodes, generator))
        return Judged(torch.stack([run.returns for run in runs]), runs, fast)

    def _support(self, episodes: Episodes) -> Samples:
        """The steps of the episodes as samples of the REINFORCE loss."""
        scale = advantages(episodes, self.settings.discount, self.settings.gae)
        return as_samples(type(self.policy), episodes, scale)


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
