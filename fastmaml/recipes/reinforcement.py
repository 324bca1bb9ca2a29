"""The paper's experiments in reinforcement learning (section 5.3), as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from fastmaml.recipes import paper
from fastmaml.recipes.options import check, option
from fastmaml.rl.environments import BatchedEnvironment, gymnasium
from fastmaml.rl.environments.ant import Ant
from fastmaml.rl.environments.locomotion import HalfCheetah
from fastmaml.rl.environments.navigation import Navigation2D
from fastmaml.rl.environments.scaled import ScaledActions
from fastmaml.rl.meta import MetaPolicy, Settings
from fastmaml.rl.outer import PPO, TRPO, Outer, PolicyGradient
from fastmaml.rl.policies import GaussianPolicy
from fastmaml.rl.trainer import Validation


@dataclass(frozen=True, kw_only=True)
class PolicyRecipe(ABC):
    """An experiment: which tasks, which policy, how it is trained and how it is judged.

    Raises:
        ValueError: an option out of its range, naming it, what was given and what is allowed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    gymnasium_name: ClassVar[str]

    iterations: int = option(500, "meta-iterations; each is one meta-batch and one outer update", minimum=1)
    meta_batch: int = option(40, "tasks in a meta-batch", minimum=1)
    episodes: int = option(20, "trajectories of a task before each inner step, and after the last", minimum=1)
    horizon: int = option(200, "most steps of a trajectory", minimum=1)
    inner_lr: float = option(0.1, "step size of the inner steps", minimum=0.0)
    train_steps: int = option(1, "inner steps in training; 0 trains on all tasks without adaptation", minimum=0)
    hidden: int = option(100, "width of the two hidden layers", minimum=1)
    log_std: float = option(0.0, "log standard deviation of the actions at the start")
    outer: str = option("trpo", "the outer update", choices=("trpo", "ppo", "gradient"))
    kl: float = option(0.01, "TRPO: largest mean KL divergence of the adapted policies", minimum=0.0)
    cg_iterations: int = option(10, "TRPO: most iterations of conjugate gradient", minimum=1)
    damping: float = option(1e-5, "TRPO: added to the diagonal of the curvature", minimum=0.0)
    outer_lr: float = option(0.05, "step size of ppo and of gradient", minimum=0.0)
    clip: float = option(0.2, "PPO: ratios of likelihoods beyond 1 ± clip gain nothing", minimum=0.0)
    outer_epochs: int = option(5, "PPO: gradient steps on one meta-batch", minimum=1)
    discount: float = option(0.99, "discount of rewards, γ", minimum=0.0)
    gae: float = option(1.0, "λ of generalised advantage estimation", minimum=0.0)
    engine: str = option("auto", "what executes the inner loop", choices=("auto", "cpu", "functional", "reference"))
    test_tasks: int = option(40, "tasks to judge on; the 95% confidence intervals are over them", minimum=2)
    test_steps: int = option(3, "inner steps at test; every number from 0 to it is judged", minimum=0)
    test_episodes: int = option(20, "trajectories of a task at test, before each step and after the last", minimum=1)
    test_lr: float = option(0.1, "step size of the first inner step at test", minimum=0.0)
    test_lr_later: float = option(0.05, "step size of all further inner steps at test", minimum=0.0)
    validate_every: int = option(10, "meta-iterations between two validations", minimum=1)
    validation_tasks: int = option(20, "tasks of a validation", minimum=1)
    seed: int = option(1, "seed of the initial weights, the tasks and the trajectories", minimum=0)
    checkpoint_every: int = option(10, "meta-iterations between two checkpoints", minimum=1)

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def environment(self) -> BatchedEnvironment:
        """The tasks' simulator."""

    def drawn(self, task: np.ndarray) -> Any:
        """A task as Gymnasium's environment, which can be drawn; its actions are those of the recipe's simulator."""
        options = {"render_mode": "rgb_array", "max_episode_steps": self.horizon, "disable_env_checker": True}
        return gymnasium().make(self.gymnasium_name, goal=task, **options)

    def meta(self, environment: BatchedEnvironment | None = None) -> MetaPolicy:
        """The policy with its initial weights, the same for the same seed, ready to train.

        Args:
            environment: in place of the recipe's own, e.g. one that tells an oracle the task.
        """
        environment = environment or self.environment()
        generator = torch.Generator().manual_seed(self.seed)
        width = (self.hidden, self.hidden)
        policy = GaussianPolicy(
            environment.observations, environment.actions, width, log_std=self.log_std, generator=generator
        )
        settings = Settings(self.inner_lr, self.train_steps, self.episodes, self.discount, self.gae)
        return MetaPolicy(policy, environment, settings, self.engine)

    def update(self) -> Outer:
        if self.outer == "trpo":
            return TRPO(self.kl, self.cg_iterations, self.damping)
        if self.outer == "ppo":
            return PPO(self.outer_lr, self.outer_epochs, self.clip)
        return PolicyGradient(self.outer_lr)

    def validation(self) -> Validation:
        """On tasks of a seed of its own, after one step."""
        return Validation(
            self.validate_every, self.validation_tasks, self.episodes, min(1, self.test_steps), self.test_lrs,
            self.seed + 2_000_003,
        )  # fmt: skip

    @property
    def test_lrs(self) -> tuple[float, ...]:
        """Step sizes of the inner steps at test: the first, and that of all others; in the paper half (A.2)."""
        return (self.test_lr, self.test_lr_later)

    @property
    def test_seed(self) -> int:
        """Seed of the tasks to judge on: never that of training."""
        return self.seed + 1_000_003

    def paper(self, method: str = "MAML") -> Mapping[int, float]:
        """Mean returns that the paper reports, by number of inner steps; of longer or shorter episodes none."""
        if self.horizon != type(self).horizon:
            return {}
        return paper.RETURNS[self.name].get(method, {})


@dataclass(frozen=True, kw_only=True)
class NavigationRecipe(PolicyRecipe):
    """The paper's 2D navigation: a point that moves to a goal which it is not shown.

    A policy's action of 1 is the largest step, 0.1, as in the authors' code (rllab's `normalize`). What remains after
    adaptation is mostly hovering: docs/reinforcement.md has what was measured from which standard deviation.
    """

    name: ClassVar[str] = "nav2d"
    title: ClassVar[str] = "2D navigation, 100-100 policy (section 5.3)"
    gymnasium_name: ClassVar[str] = "fastmaml/Navigation2D-v0"

    iterations: int = option(60, "meta-iterations; each is one meta-batch and one outer update", minimum=1)
    meta_batch: int = option(20, "tasks in a meta-batch", minimum=1)
    log_std: float = option(-1.0, "log standard deviation of the actions at the start")
    test_lr_later: float = option(0.03, "step size of all further inner steps at test", minimum=0.0)
    action_scale: float = option(0.1, "what an action of 1 moves the point by, at most 0.1 being possible", minimum=0.0)
    horizon: int = option(100, "most steps of a trajectory", minimum=1)
    test_episodes: int = option(40, "trajectories of a task at test, before each step and after the last", minimum=1)

    def environment(self) -> BatchedEnvironment:
        return ScaledActions(Navigation2D(self.horizon), self.action_scale)

    def drawn(self, task: np.ndarray) -> Any:
        environment = super().drawn(task)
        return gymnasium().wrappers.TransformAction(environment, lambda action: action * self.action_scale, None)


@dataclass(frozen=True, kw_only=True)
class CheetahDirectionRecipe(PolicyRecipe):
    """The half-cheetah that is to run forward or backward.

    Half of the paper's tasks a meta-batch, in longer steps (the paper: `--meta-batch 40 --kl 0.01 --gae 1`):
    docs/reinforcement.md has what they reach.
    """

    name: ClassVar[str] = "cheetah-dir"
    title: ClassVar[str] = "half-cheetah, direction, 100-100 policy (section 5.3)"
    gymnasium_name: ClassVar[str] = "fastmaml/HalfCheetahDirection-v0"

    iterations: int = option(220, "meta-iterations; each is one meta-batch and one outer update", minimum=1)
    meta_batch: int = option(20, "tasks in a meta-batch", minimum=1)
    kl: float = option(0.05, "TRPO: largest mean KL divergence of the adapted policies", minimum=0.0)
    gae: float = option(0.95, "λ of generalised advantage estimation", minimum=0.0)

    def environment(self) -> BatchedEnvironment:
        return HalfCheetah("direction", self.horizon)


@dataclass(frozen=True, kw_only=True)
class CheetahVelocityRecipe(PolicyRecipe):
    """The half-cheetah that is to run at a speed from 0 to 2."""

    name: ClassVar[str] = "cheetah-vel"
    title: ClassVar[str] = "half-cheetah, velocity, 100-100 policy (section 5.3)"
    gymnasium_name: ClassVar[str] = "fastmaml/HalfCheetahVelocity-v0"

    def environment(self) -> BatchedEnvironment:
        return HalfCheetah("velocity", self.horizon)


@dataclass(frozen=True, kw_only=True)
class AntDirectionRecipe(PolicyRecipe):
    """The ant that is to run forward or backward."""

    name: ClassVar[str] = "ant-dir"
    title: ClassVar[str] = "ant, direction, 100-100 policy (section 5.3)"
    gymnasium_name: ClassVar[str] = "fastmaml/AntDirection-v0"

    episodes: int = option(40, "trajectories of a task before each inner step, and after the last", minimum=1)
    test_episodes: int = option(40, "trajectories of a task at test, before each step and after the last", minimum=1)

    def environment(self) -> BatchedEnvironment:
        return Ant("direction", self.horizon)


@dataclass(frozen=True, kw_only=True)
class AntVelocityRecipe(PolicyRecipe):
    """The ant that is to run at a speed from 0 to 3."""

    name: ClassVar[str] = "ant-vel"
    title: ClassVar[str] = "ant, velocity, 100-100 policy (section 5.3)"
    gymnasium_name: ClassVar[str] = "fastmaml/AntVelocity-v0"

    def environment(self) -> BatchedEnvironment:
        return Ant("velocity", self.horizon)
