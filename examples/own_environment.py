"""Meta-learn a policy for a Gymnasium environment of your own: a lift that is to find a floor it is not told.

    python examples/own_environment.py

The environment is an ordinary one; what makes it a family of tasks is an attribute, here `floor`. Gymnasium's vector
API steps a copy of it for each episode.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium
import numpy as np
import torch

from fastmaml.rl import GymnasiumEnvironment
from fastmaml.rl.meta import MetaPolicy, Settings
from fastmaml.rl.outer import TRPO
from fastmaml.rl.policies import CategoricalPolicy
from fastmaml.rl.trainer import Trainer


class Lift(gymnasium.Env[np.ndarray, np.int64]):
    """A cabin that goes down, stays or goes up by 0.1; the reward is minus the distance to `floor`."""

    def __init__(self, floor: float = 0.0) -> None:
        self.observation_space = gymnasium.spaces.Box(-2, 2, (1,), np.float64)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.floor, self.height = floor, 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.height = self.np_random.uniform(-0.2, 0.2)
        return np.array([self.height]), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.height = float(np.clip(self.height + 0.1 * (action - 1), -2, 2))
        return np.array([self.height]), -abs(self.height - self.floor), False, False, {}


def floors(count: int, generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(-1, 1, count)


def returns(meta: MetaPolicy) -> list[float]:
    """Mean returns of 20 tasks after 0, 1 and 2 inner steps."""
    tasks, generator = floors(20, np.random.default_rng(5)), np.random.default_rng(6)
    lr = meta.settings.inner_lr
    judged = meta.evaluate(tasks, steps=2, episodes=10, lrs=[lr, lr / 2], generator=generator)
    return [float(value) for value in judged.returns.mean(1)]  # returns [3, T]


def main(iterations: int) -> None:
    environment = GymnasiumEnvironment(Lift, floors, horizon=20, attribute="floor")
    generator = torch.Generator().manual_seed(0)
    policy = CategoricalPolicy(environment.observations, environment.actions, (32, 32), generator=generator)
    meta = MetaPolicy(policy, environment, Settings(inner_lr=0.5, episodes=10))
    before = returns(meta)
    Trainer(meta, TRPO(), meta_batch=10, iterations=iterations, seed=1).run()
    print("mean return after 0 … 2 inner steps")
    for name, values in (("before", before), ("after", returns(meta))):
        print(f"{name:>7}", " ".join(f"{value:7.2f}" for value in values))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60, help="meta-iterations [default: 60]")
    main(parser.parse_args().iterations)
