"""Tasks of reinforcement learning: simulators, single and many at once."""

from fastmaml.rl.environments.base import (
    BatchedEnvironment,
    MissingDependency,
    NoRenderer,
    WithTask,
    check_actions,
    check_tasks,
    gymnasium,
    mujoco,
)

__all__ = [
    "BatchedEnvironment",
    "MissingDependency",
    "NoRenderer",
    "WithTask",
    "check_actions",
    "check_tasks",
    "gymnasium",
    "mujoco",
]
