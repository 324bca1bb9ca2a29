"""2D navigation as Gymnasium has it, an episode at a time: `gymnasium.make("fastmaml/Navigation2D-v0", goal=...)`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fastmaml.rl import environments
from fastmaml.rl.environments import navigation

environments.gymnasium()  # an error here names the extra to install
import gymnasium  # noqa: E402

PIXELS, SPAN = 240, 1.2  # an image's edge, and how much of the plane it shows
_PATH, _POINT, _GOAL = (150, 150, 150), (31, 119, 180), (214, 39, 40)


class NavigationEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point in the plane that moves to a goal which it is not shown.

    Args:
        goal: [2]. Also an attribute, which may be set anew before a reset.
        render_mode: "rgb_array" or None.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, goal: Any = (0.3, 0.3), render_mode: str | None = None) -> None:
        largest = navigation.LARGEST_STEP
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-largest, largest, (2,), np.float32)
        self.goal, self.render_mode = goal, render_mode
        self._path = [np.zeros(2)]

    @property
    def goal(self) -> np.ndarray:
        return self._goal

    @goal.setter
    def goal(self, goal: Any) -> None:
        self._goal = environments.check_tasks([goal], (2,))[0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._path = [np.zeros(2)]
        return self._path[-1].copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        position, reward, reached = navigation.move(self._path[-1], action, self._goal)
        self._path.append(position)
        return position.copy(), float(reward), bool(reached), False, {}

    def render(self) -> np.ndarray | None:
        """The way so far, the point and the goal: uint8 [H, W, 3]."""
        if self.render_mode is None:
            return None
        image = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
        corners = np.array(self._path)
        for start, end in itertools.pairwise(corners):
            for share in np.linspace(0, 1, 20):
                _dot(image, start + share * (end - start), 1, _PATH)
        _dot(image, self._goal, 4, _GOAL)
        _dot(image, corners[-1], 4, _POINT)
        return image


def _dot(image: np.ndarray, place: np.ndarray, radius: int, colour: tuple[int, int, int]) -> None:
    """A square dot; what lies outside the image is not drawn."""
    column, row = ((np.array([1, -1]) * place / SPAN + 0.5) * PIXELS).astype(int)
    rows, columns = (slice(max(at - radius, 0), max(at + radius + 1, 0)) for at in (row, column))
    image[rows, columns] = colour
