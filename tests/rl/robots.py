"""What the tests of half-cheetah and ant share."""

from __future__ import annotations

import gymnasium
import numpy as np

from fastmaml.rl import Ant, HalfCheetah, Rewards

ROBOTS = {"HalfCheetah": HalfCheetah, "Ant": Ant}
# weights with which the reward of direction 1 is that of Gymnasium's own environment
GYMNASIUM_REWARDS = {"HalfCheetah": Rewards(control=0.1), "Ant": Rewards(control=0.5, contact=5e-4, alive=1.0)}


def started(robot, tasks=(1.0, -1.0), episodes=2, seed=0, **options):
    """A batched environment after its reset."""
    environment = ROBOTS[robot](threads=options.pop("threads", 2), **options)
    environment.reset(np.array(tasks), episodes, np.random.default_rng(seed))
    return environment


def put(environment, qpos, qvel):
    """A Gymnasium environment of its own, at a state."""
    environment.reset()
    environment.set_state(qpos, qvel)
    return environment


def make(name, **options):
    return gymnasium.make(name, **options).unwrapped
