"""Reinforcement learning: environments whose tasks are stepped all at once, and episodes sampled from them.

Importing this makes the environments known to Gymnasium: `gymnasium.make("fastmaml/Navigation2D-v0", goal=(0.1, 0.4))`.
"""

from fastmaml.rl.environments import BatchedEnvironment, MissingDependency, WithTask
from fastmaml.rl.environments.ant import Ant
from fastmaml.rl.environments.locomotion import HalfCheetah, Rewards
from fastmaml.rl.environments.navigation import Navigation2D
from fastmaml.rl.environments.registration import register
from fastmaml.rl.environments.scaled import ScaledActions
from fastmaml.rl.environments.vector import GymnasiumEnvironment
from fastmaml.rl.meta import MetaPolicy, Settings
from fastmaml.rl.outer import PPO, TRPO, PolicyGradient
from fastmaml.rl.policies import CategoricalPolicy, GaussianPolicy
from fastmaml.rl.random_state import random_state, set_random_state
from fastmaml.rl.rollouts import Episodes, advantages, sample
from fastmaml.rl.trainer import Trainer, TrainResult, Validation

register()

__all__ = [
    "PPO",
    "TRPO",
    "Ant",
    "BatchedEnvironment",
    "CategoricalPolicy",
    "Episodes",
    "GaussianPolicy",
    "GymnasiumEnvironment",
    "HalfCheetah",
    "MetaPolicy",
    "MissingDependency",
    "Navigation2D",
    "PolicyGradient",
    "Rewards",
    "ScaledActions",
    "Settings",
    "TrainResult",
    "Trainer",
    "Validation",
    "WithTask",
    "advantages",
    "random_state",
    "sample",
    "set_random_state",
]
