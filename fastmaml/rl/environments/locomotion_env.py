"""Half-cheetah and ant with goals as Gymnasium has them, an episode at a time; see `registration` for their names."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastmaml.rl import environments
from fastmaml.rl.environments.locomotion import (
    ANT_REWARDS,
    CHEETAH_REWARDS,
    Goal,
    Rewards,
    became_unstable,
    deprecations_ignored,
    task_reward,
)

environments.gymnasium()  # an error here names the extra to install
environments.mujoco()
import gymnasium  # noqa: E402
from gymnasium.envs.mujoco.ant_v5 import AntEnv  # noqa: E402
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv  # noqa: E402


class _WithGoal(gymnasium.utils.EzPickle):
    """Gymnasium's robot with the task's reward in place of the one for running forward.

    Args:
        goal: 1 or −1 for a direction, a velocity otherwise. Also an attribute, which may be set anew before a reset.
        rewards: weights; those of the authors' code by default.
        options: further ones of Gymnasium's environment, such as render_mode.
    """

    kind: ClassVar[Goal]
    default_rewards: ClassVar[Rewards]

    def __init__(self, goal: float = 1.0, rewards: Rewards | None = None, **options: Any) -> None:
        self.goal = goal
        with deprecations_ignored():
            super().__init__(**self._weights(rewards or self.default_rewards), **options)
        gymnasium.utils.EzPickle.__init__(self, goal, rewards, **options)

    @property
    def goal(self) -> float:
        return self._goal

    @goal.setter
    def goal(self, goal: float) -> None:
        self._goal = float(environments.check_tasks([goal], ())[0])
        if self.kind == "direction" and self._goal not in (-1.0, 1.0):
            raise ValueError(f"goal: given {goal!r}; allowed are the directions 1 and -1")

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        space = self.action_space  # type: ignore[attr-defined]
        observation, _, ended, cut, info = super().step(np.clip(action, space.low, space.high))  # type: ignore[misc]
        if became_unstable(self.data):  # type: ignore[attr-defined]
            observation, info["x_velocity"] = np.full_like(observation, np.nan), np.nan
        info["reward_task"] = task_reward(self.kind, info["x_velocity"], self._goal)
        terms = ("reward_task", "reward_ctrl", "reward_contact", "reward_survive")
        return observation, float(sum(info.get(term, 0.0) for term in terms)), ended, cut, info

    def _weights(self, rewards: Rewards) -> dict[str, float]:
        return {"ctrl_cost_weight": rewards.control}


class _AntWithGoal(_WithGoal):
    def _weights(self, rewards: Rewards) -> dict[str, float]:
        more = {"contact_cost_weight": rewards.contact, "healthy_reward": rewards.alive}
        return super()._weights(rewards) | more


class HalfCheetahDirectionEnv(_WithGoal, HalfCheetahEnv):  # type: ignore[misc]
    """Run forward (goal 1) or backward (−1)."""

    kind, default_rewards = "direction", CHEETAH_REWARDS["direction"]


class HalfCheetahVelocityEnv(_WithGoal, HalfCheetahEnv):  # type: ignore[misc]
    """Keep a velocity."""

    kind, default_rewards = "velocity", CHEETAH_REWARDS["velocity"]


class AntDirectionEnv(_AntWithGoal, AntEnv):  # type: ignore[misc]
    """Run forward (goal 1) or backward (−1)."""

    kind, default_rewards = "direction", ANT_REWARDS["direction"]


class AntVelocityEnv(_AntWithGoal, AntEnv):  # type: ignore[misc]
    """Keep a velocity."""

    kind, default_rewards = "velocity", ANT_REWARDS["velocity"]
