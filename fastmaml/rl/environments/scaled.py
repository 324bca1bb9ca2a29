"""Actions in units of their bounds: what a policy whose outputs are near one needs where actions are small."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fastmaml.rl.environments import BatchedEnvironment


class ScaledActions(BatchedEnvironment):
    """The environment whose actions are `scale` times those it is given (rllab's `normalize`, for symmetric bounds).

    Raises:
        ValueError: for a scale that is not a positive number, or an environment whose actions are discrete.
    """

    def __init__(self, inner: BatchedEnvironment, scale: float) -> None:
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale: given {scale!r}; allowed are positive finite numbers")
        if inner.discrete:
            raise ValueError("inner: its actions are discrete, which have no scale; give it as it is")
        self.inner, self.scale = inner, scale
        self.observations, self.actions, self.horizon = inner.observations, inner.actions, inner.horizon

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return self.inner.sample_tasks(count, generator)

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        return self.inner.reset(tasks, episodes, generator)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.inner.step(actions * self.scale)

    def oracle(self, tasks: np.ndarray) -> np.ndarray:
        return self.inner.oracle(tasks)

    def state_dict(self) -> dict[str, Tensor]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.inner.load_state_dict(state)

    def close(self) -> None:
        self.inner.close()
