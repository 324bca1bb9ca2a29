"""2D navigation: all episodes as arrays, and one as Gymnasium has it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from fastmaml.rl import Navigation2D


def started(tasks=((0.3, -0.2), (-0.5, 0.4)), episodes=3):
    environment = Navigation2D()
    environment.reset(np.array(tasks), episodes, np.random.default_rng(0))
    return environment


def test_episodes_are_those_of_the_registered_environment():
    goals = np.array([[0.3, -0.2], [-0.5, 0.4]])
    environment, generator = started(goals, 2), np.random.default_rng(1)
    singles = {at: gymnasium.make("fastmaml/Navigation2D-v0", goal=goals[at[0]]) for at in np.ndindex(2, 2)}
    for single in singles.values():
        np.testing.assert_array_equal(single.reset(seed=0)[0], [0, 0])
    for _ in range(100):
        actions = generator.normal(0, 0.1, (2, 2, 2)).astype(np.float32)
        actions[0] += np.sign(goals[0]) * 0.02
        observations, rewards, ended = environment.step(actions)
        for at, single in list(singles.items()):
            expected, reward, terminated, cut, _ = single.step(actions[at])
            np.testing.assert_array_equal(observations[at], expected)
            assert (rewards[at], ended[at]) == (reward, terminated)
            if terminated or cut:
                del singles[at]
    assert not singles  # Gymnasium ends them at 100 steps


def test_the_reward_is_minus_the_distance_and_steps_are_clipped():
    environment = started()
    observations, rewards, ended = environment.step(np.full((2, 3, 2), 7.0))
    np.testing.assert_allclose(observations, 0.1)
    np.testing.assert_allclose(rewards[:, 0], [-np.hypot(0.2, 0.3), -np.hypot(0.6, 0.3)])
    assert not ended.any()


def test_an_episode_ends_within_a_hundredth_of_the_goal():
    environment = started([(0.05, 0.05)], 2)
    _, _, ended = environment.step(np.array([[[0.05, 0.0591], [0.05, 0.0609]]]))
    np.testing.assert_array_equal(ended, [[True, False]])


def test_goals_fill_the_square():
    goals = Navigation2D().sample_tasks(1000, np.random.default_rng(0))
    assert goals.shape == (1000, 2)
    assert np.abs(goals).max() <= 0.5
    np.testing.assert_allclose(goals.std(0), 1 / np.sqrt(12), rtol=0.1)


def test_a_restored_environment_goes_on_bit_for_bit():
    environment, generator = started(), np.random.default_rng(1)
    actions = generator.normal(0, 0.1, (10, 2, 3, 2))
    for action in actions[:5]:
        environment.step(action)
    state = environment.state_dict()
    expected = [environment.step(action) for action in actions[5:]]
    other = Navigation2D()
    other.load_state_dict(state)
    for action, step in zip(actions[5:], expected, strict=True):
        assert all(np.array_equal(mine, its) for mine, its in zip(other.step(action), step, strict=True))


def test_an_episode_is_drawn():
    environment = gymnasium.make("fastmaml/Navigation2D-v0", goal=(0.3, -0.3), render_mode="rgb_array")
    environment.reset(seed=0)
    at_start = environment.render()
    environment.step(np.array([0.1, 0.1], np.float32))
    moved = environment.render()
    assert at_start.shape == moved.shape == (240, 240, 3)
    blue = np.argwhere((moved == (31, 119, 180)).all(-1)).mean(0)
    red = np.argwhere((moved == (214, 39, 40)).all(-1)).mean(0)
    assert blue[0] < 120 < blue[1]  # up is a smaller row
    assert red[0] > 120 < red[1]
    environment.unwrapped.goal = (9.0, 9.0)  # outside the image
    assert environment.render().shape == (240, 240, 3)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="horizon: given 0"):
        Navigation2D(0)
    with pytest.raises(ValueError, match=r"tasks: given shape \[2\]; allowed is \[T, 2\]"):
        started((0.1, 0.2))
    with pytest.raises(ValueError, match="tasks: given numbers that are not finite"):
        started(((0.1, np.nan),))
    with pytest.raises(ValueError, match="episodes: given 0"):
        started(episodes=0)
    with pytest.raises(ValueError, match=r"actions: given shape \[2\]; the episodes in flight take \[2, 3, 2\]"):
        started().step(np.zeros(2))
    with pytest.raises(ValueError, match="tasks: given shape"):
        gymnasium.make("fastmaml/Navigation2D-v0", goal=0.3)
