"""The ant (Finn et al. 2017, section 5.3), with Gymnasium's Ant-v5 as its body."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastmaml.rl.environments.locomotion import (
    ANT_REWARDS,
    FRAME_SKIP,
    HORIZON,
    Goal,
    Locomotion,
    Rewards,
    became_unstable,
)

STANDING = (0.2, 1.0)  # heights of the torso between which an episode goes on


class Ant(Locomotion):
    """Gymnasium's Ant-v5: 105 observations, of which 78 are contact forces, and 8 torques.

    Its velocity and contact forces are what MuJoCo's data hold after the last Runge-Kutta stage of a step. A rollout
    gives states and sensors only, and its sensors are read at the first stage; so the episodes are shared out among
    threads that each step a simulator of their own.
    """

    model_file, fastest, default_rewards = "ant.xml", 3.0, ANT_REWARDS
    _in_flight = (*Locomotion._in_flight, "_torso", "_forces")

    def __init__(
        self,
        goal: Goal = "direction",
        horizon: int = HORIZON,
        threads: int | None = None,
        rewards: Rewards | None = None,
    ) -> None:
        super().__init__(goal, horizon, threads, rewards)
        self._pool = ThreadPoolExecutor(self.threads)

    def close(self) -> None:
        self._pool.shutdown()

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        self._torso = np.array(qpos[..., 0])  # [T, E]: the torso's position along x
        self._forces = np.zeros((*self._goals.shape, self.model.nbody, 6))  # Gymnasium's are zero after a reset, too
        return super().set_state(qpos, qvel)

    def _state_spec(self) -> int:
        # the solver starts from its last solution, as in a simulator that is stepped on and on
        return super()._state_spec() | int(self._mujoco.mjtState.mjSTATE_WARMSTART.value)

    def _advance(self, controls: np.ndarray) -> np.ndarray:
        rows = np.argwhere(self._alive).tolist()
        shares = [range(first, len(rows), self.threads) for first in range(self.threads)]
        before = self._torso[self._alive]
        list(self._pool.map(lambda data, share: self._step(data, share, rows, controls), self._data, shares))
        return (self._torso[self._alive] - before) / self._seconds

    def _step(self, data: Any, share: range, rows: list[list[int]], controls: np.ndarray) -> None:
        engine, model = self._mujoco, self.model
        for number in share:
            task, episode = rows[number]
            state = self._states[task, episode]
            engine.mj_setState(model, data, state, self._spec)
            data.ctrl[:] = controls[number]
            engine.mj_step(model, data, nstep=FRAME_SKIP)
            engine.mj_rnePostConstraint(model, data)
            engine.mj_getState(model, data, state, self._spec)
            self._torso[task, episode] = data.xpos[1, 0]
            self._forces[task, episode] = data.cfrc_ext
            if became_unstable(data):
                state[:] = self._torso[task, episode] = np.nan

    def _other_rewards(self) -> np.ndarray:
        contact = np.square(np.clip(self._forces, -1, 1)).sum((-2, -1))
        return self.rewards.alive * ~self._fallen() - self.rewards.contact * contact

    def _fallen(self) -> np.ndarray:
        height = self.qpos[..., 2]
        return ~((STANDING[0] <= height) & (height <= STANDING[1]))

    def _observation_size(self) -> int:
        return int(self.model.nq - 2 + self.model.nv + 6 * (self.model.nbody - 1))

    def _observe(self) -> np.ndarray:
        forces = np.clip(self._forces[..., 1:, :], -1, 1)  # of all bodies but the world
        forces = forces.reshape(*self._goals.shape, -1)
        return np.concatenate([self.qpos[..., 2:], self.qvel, forces], -1)
