"""Gymnasium's spaces as plain numbers: an environment's observations and actions, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmaml.rl.environments import gymnasium


class Observations:
    """Box observations flattened, Discrete ones one-hot: [..., size]."""

    def __init__(self, space: Any) -> None:
        spaces = gymnasium().spaces
        if not isinstance(space, (spaces.Box, spaces.Discrete)):
            raise ValueError(
                f"environment: its observation space is {space}; allowed are Box and Discrete: wrap it in Gymnasium's "
                "FlattenObservation, or in a wrapper of your own"
            )
        self.space, self.choices = space, isinstance(space, spaces.Discrete)
        self.size = int(space.n) if self.choices else int(np.prod(space.shape))

    def flat(self, observations: np.ndarray) -> np.ndarray:
        """[N, *shape] to [N, size]."""
        if self.choices:
            return np.eye(self.size)[observations - self.space.start]
        return observations.reshape(len(observations), self.size)


class Actions:
    """Numbers [..., size] as Box actions, clipped to its bounds; choices 0 … size − 1 as Discrete ones."""

    def __init__(self, space: Any) -> None:
        spaces = gymnasium().spaces
        self.space, self.choices = space, isinstance(space, spaces.Discrete)
        if not self.choices and not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
            raise ValueError(
                f"environment: its action space is {space}; allowed are Discrete and Box of floating-point numbers: "
                "wrap it in Gymnasium's TransformAction"
            )
        self.size = int(space.n) if self.choices else int(np.prod(space.shape))

    def native(self, actions: np.ndarray) -> np.ndarray:
        """[N, size], or [N] choices, to what N environments take."""
        if self.choices:
            return actions + self.space.start
        shaped = actions.reshape(len(actions), *self.space.shape)
        return np.clip(shaped, self.space.low, self.space.high).astype(self.space.dtype)
