"""What a sampler steps: the episodes of all tasks at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np


class MissingDependency(ImportError):
    """A package that an extra brings is not installed."""


def gymnasium() -> Any:
    """The gymnasium module; ImportError naming the extra where it is absent."""
    try:
        import gymnasium as module
    except ImportError as error:
        raise MissingDependency(
            "this environment needs gymnasium, which is not installed; run: pip install 'fastmaml[rl]'"
        ) from error
    return module


def mujoco() -> Any:
    """The mujoco module with mujoco.rollout; ImportError naming the extra where it is absent."""
    try:
        import mujoco as module
        import mujoco.rollout
    except ImportError as error:
        raise MissingDependency(
            "this environment needs mujoco, which is not installed; run: pip install 'fastmaml[rl]'"
        ) from error
    return module


class BatchedEnvironment(ABC):
    """A family of tasks whose episodes, T tasks × E of each, are stepped together.

    All randomness comes from the generator that `reset` is given, so that a run can be resumed exactly: an episode
    is a function of the task, the generator's state and the actions.

    Attributes:
        observations: numbers in an observation, O.
        actions: numbers in an action, A; of a discrete one the number of choices.
        discrete: whether an action is one choice rather than A numbers.
        horizon: the most steps of an episode.
    """

    observations: int
    actions: int
    discrete: ClassVar[bool] = False
    horizon: int

    @abstractmethod
    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Tasks [count, ...], as numbers."""

    @abstractmethod
    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        """Starts `episodes` episodes of each of the tasks [T, ...]: first observations [T, E, O]."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step of every episode, ended ones included, whose results mean nothing.

        Args:
            actions: [T, E, A], or [T, E] whole numbers where discrete.
        Returns:
            observations [T, E, O], rewards [T, E], and whether each episode has ended with this step [T, E].
        """

    def oracle(self, tasks: np.ndarray) -> np.ndarray:
        """What the oracle is told of the tasks [T, G], beside its observations."""
        return tasks.reshape(len(tasks), -1)


class WithTask(BatchedEnvironment):
    """The environment whose observations also hold the task: what the paper's oracle sees."""

    def __init__(self, inner: BatchedEnvironment) -> None:
        generator = np.random.default_rng(0)
        told = inner.oracle(inner.sample_tasks(1, generator)).shape[1]
        self.inner, self.observations, self.actions = inner, inner.observations + told, inner.actions
        self.discrete, self.horizon = inner.discrete, inner.horizon  # type: ignore[misc]
        self._told = np.zeros((0, 0, told))

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self.inner.sample_tasks(count, generator)

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        told = self.inner.oracle(tasks)[:, None]
        self._told = np.broadcast_to(told, (len(tasks), episodes, told.shape[2]))
        return self._with(self.inner.reset(tasks, episodes, generator))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, ended = self.inner.step(actions)
        return self._with(observations), rewards, ended

    def _with(self, observations: np.ndarray) -> np.ndarray:
        return np.concatenate([observations, self._told], axis=-1)
