"""What a sampler steps: the episodes of all tasks at once."""

from __future__ import annotations

import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


class MissingDependency(ImportError):
    """A package that an extra brings is not installed."""


class NoRenderer(ImportError):
    """Nothing can be drawn on this machine, or the library that MUJOCO_GL names cannot be loaded."""

    def __init__(self, error: Exception) -> None:
        told = str(error).strip().splitlines() or [""]
        super().__init__(
            f"MuJoCo cannot draw here ({type(error).__name__}: {told[0]}); MUJOCO_GL is "
            f"{os.environ.get('MUJOCO_GL', 'not set')}. It draws without a screen where that is egl (a GPU's driver, "
            "or the package libegl1) or osmesa (the package libosmesa6); leave it unset to draw nothing"
        )


def gymnasium() -> Any:
    """The gymnasium module; ImportError naming the extra where it is absent."""
    try:
        import gymnasium as module
    except ImportError as error:
        raise _missing("gymnasium") from error
    return module


def mujoco() -> Any:
    """The mujoco module with mujoco.rollout.

    Raises:
        MissingDependency: it is absent; the message names the extra.
        NoRenderer: it cannot be imported, as the library that MUJOCO_GL names cannot be loaded.
    """
    if importlib.util.find_spec("mujoco") is None:
        raise _missing("mujoco")
    try:
        import mujoco as module
        import mujoco.rollout
    except Exception as error:  # OpenGL's bindings raise whatever they meet
        raise NoRenderer(error) from error
    return module


def _missing(package: str) -> MissingDependency:
    return MissingDependency(
        f"this environment needs {package}, which is not installed; run: pip install 'fastmaml[rl]'"
    )


class BatchedEnvironment(ABC):
    """A family of tasks whose episodes, T tasks × E of each, are stepped together.

    All randomness comes from the generator that `reset` is given, so that a run can be resumed exactly: an episode
    is a function of the task, the generator's state and the actions. Between samples an environment therefore has no
    state; `state_dict` holds the episodes in flight.

    Attributes:
        observations: numbers in an observation, O.
        actions: numbers in an action, A; of a discrete one the number of choices.
        discrete: whether an action is one choice rather than A numbers.
        horizon: the most steps of an episode.
    """

    observations: int
    actions: int
    discrete: bool = False
    horizon: int
    _in_flight: ClassVar[tuple[str, ...]] = ()  # arrays that a step depends on, from `reset` on

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

    def state_dict(self) -> dict[str, Tensor]:
        """The episodes in flight, to go on from exactly there; empty before the first `reset`."""
        if not all(hasattr(self, name) for name in self._in_flight):
            return {}
        arrays = {name.strip("_"): getattr(self, name) for name in self._in_flight}
        return {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            ValueError: the state is not one of this kind of environment, or was taken before the first `reset`.
        """
        wanted = {name.strip("_"): name for name in self._in_flight}
        if state.keys() != wanted.keys():
            raise ValueError(
                f"state: given entries {sorted(state)}, {type(self).__name__} has {sorted(wanted)}; give what its "
                "state_dict() returned after a reset"
            )
        for name, attribute in wanted.items():
            setattr(self, attribute, state[name].cpu().numpy().copy())

    def close(self) -> None:  # noqa: B027
        """Lets go of threads and processes; most environments have none."""


def check_tasks(tasks: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """The tasks as finite numbers [T, *shape]; ValueError otherwise."""
    numbers = np.asarray(tasks, dtype=float)
    if numbers.ndim != 1 + len(shape) or numbers.shape[1:] != shape or not len(numbers):
        wanted = ", ".join(("T", *map(str, shape)))
        raise ValueError(f"tasks: given shape {list(numbers.shape)}; allowed is [{wanted}] with T ≥ 1")
    if not np.isfinite(numbers).all():
        raise ValueError("tasks: given numbers that are not finite; see the environment's sample_tasks")
    return numbers


def check_actions(actions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The actions, if they are [T, E, A] as the episodes in flight; ValueError otherwise."""
    if actions.shape != shape:
        raise ValueError(f"actions: given shape {list(actions.shape)}; the episodes in flight take {list(shape)}")
    return actions


class WithTask(BatchedEnvironment):
    """The environment whose observations also hold the task: what the paper's oracle sees."""

    _in_flight = ("_told",)

    def __init__(self, inner: BatchedEnvironment) -> None:
        told = inner.oracle(inner.sample_tasks(1, np.random.default_rng(0))).shape[1]
        self.inner, self.observations, self.actions = inner, inner.observations + told, inner.actions
        self.discrete, self.horizon = inner.discrete, inner.horizon

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self.inner.sample_tasks(count, generator)

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        told = self.inner.oracle(tasks)[:, None]  # [T, 1, G]
        self._told = np.broadcast_to(told, (len(tasks), episodes, told.shape[2]))
        return self._with(self.inner.reset(tasks, episodes, generator))

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, ended = self.inner.step(actions)
        return self._with(observations), rewards, ended

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {f"inner.{name}": value for name, value in self.inner.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        inner = {name.removeprefix("inner."): value for name, value in state.items() if name.startswith("inner.")}
        self.inner.load_state_dict(inner)
        super().load_state_dict({name: value for name, value in state.items() if not name.startswith("inner.")})

    def close(self) -> None:
        self.inner.close()

    def _with(self, observations: np.ndarray) -> np.ndarray:
        return np.concatenate([observations, self._told], axis=-1)
