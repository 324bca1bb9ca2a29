"""2D navigation (Finn et al. 2017, section 5.3): a point that moves to a goal which it is not shown.

The point starts at the origin, the goal is uniform in [−0.5, 0.5]², an action is a velocity of at most 0.1 in each
direction. The paper says that the reward is minus the squared distance to the goal; the authors' code has minus the
distance, which the paper's returns fit, and so has this. An episode ends within 0.01 of the goal, or after 100 steps.
"""

from __future__ import annotations

import numpy as np

from fastmaml.rl.environments import BatchedEnvironment, check_actions, check_tasks
from fastmaml.runtime import checks

LARGEST_STEP, REACHED, LARGEST_GOAL, HORIZON = 0.1, 0.01, 0.5, 100


def move(positions: np.ndarray, actions: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of points [..., 2]: new positions, rewards [...] and whether the goal is reached [...]."""
    positions = positions + np.clip(actions, -LARGEST_STEP, LARGEST_STEP)
    offsets = positions - goals
    distances = np.sqrt(np.square(offsets[..., 0]) + np.square(offsets[..., 1]))
    return positions, -distances, distances < REACHED


class Navigation2D(BatchedEnvironment):
    """All episodes of all tasks as arrays. A task is its goal [2]."""

    observations, actions = 2, 2
    _in_flight = ("_goals", "_positions")

    def __init__(self, horizon: int = HORIZON) -> None:
        self.horizon = checks.whole_number("horizon", horizon, 1)

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(-LARGEST_GOAL, LARGEST_GOAL, (count, 2))

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        self._goals = check_tasks(tasks, (2,))[:, None]  # [T, 1, 2]
        self._positions = np.zeros((len(tasks), checks.whole_number("episodes", episodes, 1), 2))
        return self._positions

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        actions = check_actions(actions, self._positions.shape)
        self._positions, rewards, reached = move(self._positions, actions, self._goals)
        return self._positions, rewards, reached
