"""Half-cheetah and ant with goals (Finn et al. 2017, section 5.3): a velocity to keep, or a direction to run in.

Dynamics, observations and control costs are those of Gymnasium's HalfCheetah-v5 and Ant-v5; the reward for running
forward is replaced by the task's: −|v − goal| for a velocity, ±v for a direction. `mujoco.rollout` steps all
episodes of all tasks, on as many threads as there are cores.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastmaml.rl.environments import BatchedEnvironment, gymnasium, mujoco

Goal = Literal["direction", "velocity"]
HORIZON = 200


class Locomotion(BatchedEnvironment):
    """Episodes of a MuJoCo model, a state vector each.

    Args:
        goal: what a task is: a "direction" (±1) or a "velocity" in [0, fastest].
        horizon: steps of an episode.
        threads: that step the simulators; all cores by default. They never change the results.
    Raises:
        ImportError: without mujoco or gymnasium, naming the extra to install.
    """

    model_file: str
    frame_skip = 5
    control_cost: float
    fastest: float
    reset_noise: float

    def __init__(self, goal: Goal = "direction", horizon: int = HORIZON, threads: int | None = None) -> None:
        if goal not in ("direction", "velocity"):
            raise ValueError(f"goal: given {goal!r}; allowed are 'direction' and 'velocity'")
        self._mujoco, assets = mujoco(), Path(gymnasium().__file__).parent / "envs" / "mujoco" / "assets"
        self.model = self._mujoco.MjModel.from_xml_path(str(assets / self.model_file))
        self.goal, self.horizon = goal, horizon
        self.threads = threads or len(os.sched_getaffinity(0))
        self._data = [self._mujoco.MjData(self.model) for _ in range(self.threads)]
        self._rollout = self._mujoco.rollout.Rollout(nthread=self.threads if self.threads > 1 else 0)
        self._spec = self._mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._state_size = self._mujoco.mj_stateSize(self.model, self._spec)
        self.actions = self.model.nu
        self.observations = self._observation_size()
        self._timestep = self.model.opt.timestep * self.frame_skip

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        if self.goal == "direction":
            return generator.choice([-1.0, 1.0], count)
        return generator.uniform(0.0, self.fastest, count)

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        self._goals = np.repeat(tasks, episodes)  # [T E]
        self._shape = (len(tasks), episodes)
        count, nq, nv = len(self._goals), self.model.nq, self.model.nv
        data = self._mujoco.MjData(self.model)
        qpos = data.qpos + generator.uniform(-self.reset_noise, self.reset_noise, (count, nq))
        qvel = self.reset_noise * generator.standard_normal((count, nv))
        return self._observed(self.set_state(qpos, qvel))

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Puts the episodes [B] at positions [B, nq] and velocities [B, nv]: observations [B, O]."""
        template = self._mujoco.MjData(self.model)
        base = np.empty(self._state_size)
        self._mujoco.mj_getState(self.model, template, base, self._spec)
        self._states = np.repeat(base[None], len(qpos), 0)
        nq, nv = self.model.nq, self.model.nv
        self._states[:, 1 : 1 + nq], self._states[:, 1 + nq : 1 + nq + nv] = qpos, qvel
        # Ant observes contact forces, which a first forward pass would give; Gymnasium's reset does the same
        self._sensed = self._after_reset(qpos, qvel)
        self._warmstart = np.zeros((len(qpos), nv))
        return self._observe()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        controls = actions.reshape(-1, self.actions)
        before = self._position()
        self._simulate(controls)
        velocities = (self._position() - before) / self._timestep
        rewards = self._task_reward(velocities) - self.control_cost * np.square(controls).sum(-1)
        rewards, ended = self._finish(rewards)
        return self._observed(self._observe()), rewards.reshape(self._shape), ended.reshape(self._shape)

    def _simulate(self, controls: np.ndarray) -> None:
        held = np.repeat(controls[:, None], self.frame_skip, 1)
        states, _ = self._rollout.rollout(
            self.model, self._data, self._states, held, nstep=self.frame_skip, initial_warmstart=self._warmstart
        )
        self._states = states[:, -1]

    def _task_reward(self, velocities: np.ndarray) -> np.ndarray:
        return self._goals * velocities if self.goal == "direction" else -np.abs(velocities - self._goals)

    def _position(self) -> np.ndarray:
        return self._states[:, 1].copy()

    def _observed(self, observations: np.ndarray) -> np.ndarray:
        return observations.reshape(*self._shape, -1)

    def _finish(self, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return rewards, np.zeros(len(rewards), bool)

    def _after_reset(self, qpos: np.ndarray, qvel: np.ndarray) -> Any:
        return None

    @abstractmethod
    def _observation_size(self) -> int: ...

    @abstractmethod
    def _observe(self) -> np.ndarray: ...


class HalfCheetah(Locomotion):
    """Gymnasium's HalfCheetah-v5: 17 observations, 6 torques."""

    model_file, control_cost, fastest, reset_noise = "half_cheetah.xml", 0.1, 2.0, 0.1

    def _observation_size(self) -> int:
        return self.model.nq + self.model.nv - 1

    def _observe(self) -> np.ndarray:
        return self._states[:, 2 : 1 + self.model.nq + self.model.nv].copy()  # all but time and the position along x
