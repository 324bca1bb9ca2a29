"""Robots that learn to run as told (Finn et al. 2017, section 5.3): a velocity to keep, or a direction to run in.

Dynamics and observations are those of Gymnasium's HalfCheetah-v5 and Ant-v5. The reward for running forward is
replaced by the task's: −|v − goal| for a velocity, ±v for a direction; the weights of the other terms are those of the
authors' code, and actions are clipped to the motors' range, as there.
"""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fastmaml.rl.environments import BatchedEnvironment, check_actions, check_tasks, gymnasium, mujoco
from fastmaml.runtime import checks

Goal = Literal["direction", "velocity"]
HORIZON, FRAME_SKIP, RESET_NOISE = 200, 5, 0.1  # the last two are Gymnasium's


@dataclass(frozen=True)
class Rewards:
    """Weights of a reward: the task's term + alive − control · Σ torque² − contact · Σ force².

    Args:
        control: of squared actions. contact: of squared contact forces, each clipped to ±1.
        alive: given at every step after which the robot stands.
    """

    control: float
    contact: float = 0.0
    alive: float = 0.0


CHEETAH_REWARDS: Mapping[Goal, Rewards] = {"direction": Rewards(0.05), "velocity": Rewards(0.05)}
# With a velocity as goal the ant gets 1 more a step, so that falling does not pay.
ANT_REWARDS: Mapping[Goal, Rewards] = {"direction": Rewards(0.005, 5e-4, 0.05), "velocity": Rewards(0.005, 5e-4, 1.05)}


def task_reward(goal: Goal, velocities: Any, goals: Any) -> Any:
    """±v for directions ±1, −|v − goal| for velocities."""
    return goals * velocities if goal == "direction" else -np.abs(velocities - goals)


class Locomotion(BatchedEnvironment):
    """Episodes of a MuJoCo model, a state vector each, stepped on several threads.

    Args:
        goal: what a task is: a "direction" (±1) or a "velocity" in [0, fastest].
        horizon: steps of an episode.
        threads: that step the simulators; all cores by default. They never change the results.
        rewards: weights; those of the authors' code by default.
    Raises:
        ImportError: without mujoco or gymnasium, naming the extra to install.
    """

    model_file: ClassVar[str]
    fastest: ClassVar[float]
    default_rewards: ClassVar[Mapping[Goal, Rewards]]
    _in_flight: ClassVar[tuple[str, ...]] = ("_goals", "_alive", "_states")

    def __init__(
        self,
        goal: Goal = "direction",
        horizon: int = HORIZON,
        threads: int | None = None,
        rewards: Rewards | None = None,
    ) -> None:
        if goal not in ("direction", "velocity"):
            raise ValueError(f"goal: given {goal!r}; allowed are 'direction' and 'velocity'")
        self.goal, self.horizon = goal, checks.whole_number("horizon", horizon, 1)
        self.rewards = rewards or self.default_rewards[goal]
        self.threads = len(os.sched_getaffinity(0)) if threads is None else checks.whole_number("threads", threads, 1)
        self._mujoco = mujoco()
        self.model = load_model(self.model_file)
        self._data = [self._mujoco.MjData(self.model) for _ in range(self.threads)]
        self._spec = self._state_spec()
        self.actions = self.model.nu
        self.observations = self._observation_size()
        self._seconds = self.model.opt.timestep * FRAME_SKIP

    @property
    def qpos(self) -> np.ndarray:
        """A view of the positions [T, E, nq]."""
        return self._states[..., 1 : 1 + self.model.nq]

    @property
    def qvel(self) -> np.ndarray:
        """A view of the velocities [T, E, nv]."""
        return self._states[..., 1 + self.model.nq : 1 + self.model.nq + self.model.nv]

    def sample_tasks(self, count: int, generator: np.random.Generator) -> np.ndarray:
        if self.goal == "direction":
            return generator.choice([-1.0, 1.0], count)
        return generator.uniform(0.0, self.fastest, count)

    def reset(self, tasks: np.ndarray, episodes: int, generator: np.random.Generator) -> np.ndarray:
        episodes = checks.whole_number("episodes", episodes, 1)
        goals = check_tasks(tasks, ())
        if self.goal == "direction" and not np.isin(goals, (-1, 1)).all():
            raise ValueError(f"tasks: given directions {np.unique(goals).tolist()}; allowed are 1 and -1")
        self._goals = np.repeat(goals[:, None], episodes, 1)  # [T, E]
        shape, rest = self._goals.shape, self.model.qpos0
        qpos = rest + generator.uniform(-RESET_NOISE, RESET_NOISE, (*shape, self.model.nq))
        qvel = RESET_NOISE * generator.standard_normal((*shape, self.model.nv))
        return self.set_state(qpos, qvel)

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Puts the episodes in flight at positions [T, E, nq] and velocities [T, E, nv]: observations [T, E, O]."""
        data = self._mujoco.MjData(self.model)
        start = np.empty(self._mujoco.mj_stateSize(self.model, self._spec))
        self._mujoco.mj_getState(self.model, data, start, self._spec)
        self._alive = np.ones(self._goals.shape, bool)
        self._states = np.broadcast_to(start, (*self._goals.shape, len(start))).copy()  # [T, E, S]: time, qpos, qvel, …
        self.qpos[:], self.qvel[:] = qpos, qvel
        return self._observe()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        controls = check_actions(actions, (*self._goals.shape, self.actions)).astype(float)
        controls = np.clip(controls, *self.model.actuator_ctrlrange.T)
        velocities = np.zeros(self._goals.shape)
        velocities[self._alive] = self._advance(controls[self._alive])
        rewards = task_reward(self.goal, velocities, self._goals)
        rewards += self._other_rewards() - self.rewards.control * np.square(controls).sum(-1)
        ended = self._fallen()
        self._alive &= ~ended
        return self._observe(), rewards, ended

    def _state_spec(self) -> int:
        return int(self._mujoco.mjtState.mjSTATE_FULLPHYSICS.value)

    def _other_rewards(self) -> Any:
        return 0.0

    def _fallen(self) -> np.ndarray:
        return np.zeros(self._goals.shape, bool)

    @abstractmethod
    def _advance(self, controls: np.ndarray) -> np.ndarray:
        """Simulates the episodes that have not ended, under controls [B, A]: their velocities along x [B]."""

    @abstractmethod
    def _observation_size(self) -> int: ...

    @abstractmethod
    def _observe(self) -> np.ndarray: ...


def load_model(file: str) -> Any:
    """Gymnasium's MuJoCo model of that name."""
    assets = Path(gymnasium().__file__).parent / "envs" / "mujoco" / "assets"
    with deprecations_ignored():
        return mujoco().MjModel.from_xml_path(str(assets / file))


def became_unstable(data: Any) -> bool:
    """Whether MuJoCo has had to warn of its numbers since this was last asked; it has then begun anew, unseen."""
    numbers = data.warning.number
    unstable = bool(numbers.any())
    if unstable:
        numbers[:] = 0
    return unstable


@contextmanager
def deprecations_ignored() -> Iterator[None]:
    """MuJoCo's warnings as Python's, but for what it calls deprecated in Gymnasium's files, which no user can mend.

    MuJoCo by itself also writes each to a file in the working directory.
    """
    engine = mujoco()
    former = engine.get_mju_user_warning()
    engine.set_mju_user_warning(lambda text: None if "deprecated" in text else warnings.warn(text, stacklevel=2))
    try:
        yield
    finally:
        engine.set_mju_user_warning(former)


class HalfCheetah(Locomotion):
    """Gymnasium's HalfCheetah-v5: 17 observations, 6 torques. `mujoco.rollout` steps all episodes."""

    model_file, fastest, default_rewards = "half_cheetah.xml", 2.0, CHEETAH_REWARDS

    def __init__(
        self,
        goal: Goal = "direction",
        horizon: int = HORIZON,
        threads: int | None = None,
        rewards: Rewards | None = None,
    ) -> None:
        super().__init__(goal, horizon, threads, rewards)
        # without a pool of its own, a rollout runs in this thread
        self._rollout = self._mujoco.rollout.Rollout(nthread=self.threads if self.threads > 1 else 0)

    def close(self) -> None:
        self._rollout.close()

    def _advance(self, controls: np.ndarray) -> np.ndarray:
        before = self._states[self._alive]
        held = np.repeat(controls[:, None], FRAME_SKIP, 1)  # [B, skip, A]
        after = self._rollout.rollout(self.model, self._data, before, held, nstep=FRAME_SKIP)[0][:, -1]
        # a rollout stops early where MuJoCo has to warn
        after[~np.isclose(after[:, 0] - before[:, 0], self._seconds)] = np.nan
        self._states[self._alive] = after
        return (after[:, 1] - before[:, 1]) / self._seconds

    def _observation_size(self) -> int:
        return int(self.model.nq + self.model.nv - 1)

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.qpos[..., 1:], self.qvel], -1)  # all but the position along x
