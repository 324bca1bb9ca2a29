"""A user's own Gymnasium environment, stepped through Gymnasium's vector API."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fastmaml.rl.environments import BatchedEnvironment, check_actions, gymnasium
from fastmaml.rl.environments.spaces import Actions, Observations
from fastmaml.runtime import checks


class GymnasiumEnvironment(BatchedEnvironment):
    """Episodes of any Gymnasium environment whose spaces are Box or Discrete, one copy of it for each episode.

    Observations are flattened (of Discrete spaces: one-hot), Box actions clipped to their bounds. All episodes are
    seeded from the generator that `reset` is given. An episode ends where the environment says that it is terminated
    or truncated, or at the horizon.

    Args:
        make: makes the environment of a task, which is what `sample_tasks` gives a row of.
        sample_tasks: `count` tasks [count, ...] as numbers, drawn from a generator.
        horizon: the most steps of an episode; by default the max_episode_steps of the environment's spec.
        attribute: of the environment (or a wrapper of it) that is the task and may be set before a reset. Then the
            copies are kept for the next tasks; without it they are made anew for each meta-batch.
        vectorization: "sync" steps the copies one by one, "async" each in a process of its own: T × E processes.

    Raises:
        ValueError: for another kind of space, or where no horizon is known; later, for tasks whose spaces differ from
            those of the first.
        ImportError: without gymnasium, naming the extra to install.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        sample_tasks: Callable[[int, np.random.Generator], np.ndarray],
        horizon: int | None = None,
        attribute: str | None = None,
        vectorization: Literal["sync", "async"] = "sync",
    ) -> None:
        if vectorization not in ("sync", "async"):
            raise ValueError(f"vectorization: given {vectorization!r}; allowed are 'sync' and 'async'")
        self._gymnasium, self.vectorization = gymnasium(), vectorization
        self.make, self._sample_tasks, self.attribute = make, sample_tasks, attribute
        example = make(sample_tasks(1, np.random.default_rng(0))[0])
        self._observations, self._actions = Observations(example.observation_space), Actions(example.action_space)
        self.observations, self.actions = self._observations.size, self._actions.size
        self.discrete = self._actions.choices
        self.horizon = _horizon(horizon, example)
        if attribute is not None and not example.has_wrapper_attr(attribute):
            raise ValueError(f"attribute: given {attribute!r}, which the environment does not have; name its task's")
        example.close()
        self._vector: Any = None
        self._shape, self._going, self._steps = (0, 0), np.zeros((0, 0), bool), 0

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self._sample_tasks(count, generator)

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        self._shape = (len(tasks), checks.whole_number("episodes", episodes, 1))
        self._going, self._steps = np.ones(self._shape, bool), 0
        self._equip(list(tasks), episodes)
        seeds = generator.integers(2**31, size=len(tasks) * episodes).tolist()
        return self._shaped(self._vector.reset(seed=seeds)[0])

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        wanted = self._shape if self.discrete else (*self._shape, self.actions)
        flat = check_actions(actions, wanted).reshape(-1, *wanted[2:])
        observations, rewards, terminated, truncated, _ = self._vector.step(self._actions.native(flat))
        ended = (terminated | truncated).reshape(self._shape)
        self._going, self._steps = self._going & ~ended, self._steps + 1
        return self._shaped(observations), rewards.reshape(self._shape), ended

    def state_dict(self) -> dict[str, Tensor]:
        """Empty, as between samples there is no state.

        Raises:
            RuntimeError: in mid-episode, as Gymnasium's environments cannot be saved there.
        """
        if self._going.any() and self._steps < self.horizon:
            raise RuntimeError(
                "state_dict: Gymnasium environments cannot be saved in mid-episode; save between samples, the generator"
            )
        return {}

    def close(self) -> None:
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def _equip(self, tasks: list[Any], episodes: int) -> None:
        """As many environments of each task as episodes."""
        copies = [task for task in tasks for _ in range(episodes)]
        if self.attribute is None or self._vector is None or self._vector.num_envs != len(copies):
            self.close()
            self._vector = self._built(tasks, copies)
        else:
            self._vector.set_attr(self.attribute, copies)
            spaces = zip(*(self._vector.get_attr(f"{kind}_space") for kind in ("observation", "action")), strict=True)
            for task, given in zip(copies, spaces, strict=True):
                self._check_spaces(task, given)

    def _built(self, tasks: list[Any], copies: list[Any]) -> Any:
        makers = [functools.partial(self._made, task) for task in copies]
        if self.vectorization == "sync":
            return self._gymnasium.vector.SyncVectorEnv(makers)
        for task in tasks:  # an error in another process would only be seen as a broken connection
            self._made(task).close()
        return self._gymnasium.vector.AsyncVectorEnv(makers)

    def _made(self, task: Any) -> Any:
        environment = self.make(task)
        self._check_spaces(task, (environment.observation_space, environment.action_space))
        return environment

    def _check_spaces(self, task: Any, given: tuple[Any, Any]) -> None:
        if given != (wanted := (self._observations.space, self._actions.space)):
            raise ValueError(
                f"make: the environment of task {np.asarray(task).tolist()} has observation and action spaces {given}, "
                f"another task's has {wanted}; all tasks share their spaces"
            )

    def _shaped(self, observations: np.ndarray) -> np.ndarray:
        return self._observations.flat(observations).reshape(*self._shape, -1)


def _horizon(given: int | None, environment: Any) -> int:
    if given is not None:
        return checks.whole_number("horizon", given, 1)
    steps = getattr(environment.spec, "max_episode_steps", None)
    if steps is None:
        raise ValueError("horizon: not given, and the environment has no max_episode_steps; give the most steps")
    return int(steps)
