"""The paper's environments by name, for `gymnasium.make`."""

from __future__ import annotations

from fastmaml.rl.environments import locomotion, navigation

ENTRY_POINTS = {
    "fastmaml/Navigation2D-v0": "fastmaml.rl.environments.navigation_env:NavigationEnv",
    "fastmaml/HalfCheetahDirection-v0": "fastmaml.rl.environments.locomotion_env:HalfCheetahDirectionEnv",
    "fastmaml/HalfCheetahVelocity-v0": "fastmaml.rl.environments.locomotion_env:HalfCheetahVelocityEnv",
    "fastmaml/AntDirection-v0": "fastmaml.rl.environments.locomotion_env:AntDirectionEnv",
    "fastmaml/AntVelocity-v0": "fastmaml.rl.environments.locomotion_env:AntVelocityEnv",
}


def register() -> None:
    """Makes the environments known to Gymnasium, if that is installed."""
    try:
        import gymnasium
    except ImportError:  # then nobody can ask for them by name
        return
    for name, entry_point in ENTRY_POINTS.items():
        if name not in gymnasium.registry:
            steps = navigation.HORIZON if "Navigation" in name else locomotion.HORIZON
            gymnasium.register(name, entry_point, max_episode_steps=steps)
