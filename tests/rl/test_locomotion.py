"""Half-cheetah and ant: the batched forms are Gymnasium's own environments, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from fastmaml.rl import Rewards
from fastmaml.rl.environments.locomotion import ANT_REWARDS, CHEETAH_REWARDS
from tests.rl.robots import GYMNASIUM_REWARDS, ROBOTS, make, put, started

pytestmark = pytest.mark.parametrize("robot", ROBOTS)


def test_a_step_is_that_of_gymnasiums_own_environment(robot):
    environment = started(robot, (1.0, 1.0), 3, rewards=GYMNASIUM_REWARDS[robot])
    single, generator, ends = make(f"{robot}-v5"), np.random.default_rng(1), 0
    for _ in range(60):
        qpos, qvel = environment.qpos.copy(), environment.qvel.copy()
        environment.set_state(qpos, qvel)
        actions = generator.uniform(-1, 1, (2, 3, environment.actions))
        observations, rewards, ended = environment.step(actions)
        for at in np.ndindex(2, 3):
            expected, reward, terminated, *_ = put(single, qpos[at], qvel[at]).step(actions[at])
            np.testing.assert_allclose(environment.qpos[at], single.data.qpos, rtol=0, atol=1e-9)
            np.testing.assert_allclose(environment.qvel[at], single.data.qvel, rtol=0, atol=1e-8)
            np.testing.assert_allclose(observations[at], expected, rtol=0, atol=1e-8)
            np.testing.assert_allclose(rewards[at], reward, rtol=0, atol=1e-8)
            assert ended[at] == terminated
        ends += ended.sum()
    assert ends == 0 or robot == "Ant"
    assert np.abs(environment.qpos - single.model.qpos0).max() > 0.3  # they have moved


@pytest.mark.parametrize(("kind", "goals"), [("direction", (1.0, -1.0)), ("velocity", (0.5, 2.0))])
def test_episodes_are_those_of_the_registered_environment(robot, kind, goals):
    environment = started(robot, goals, 1, goal=kind)
    singles = [make(f"fastmaml/{robot}{kind.title()}-v0", goal=goal) for goal in goals]
    for task, single in enumerate(singles):
        put(single, environment.qpos[task, 0], environment.qvel[task, 0])
    generator, alive = np.random.default_rng(1), np.ones(2, bool)
    for _ in range(15):
        actions = generator.normal(0, 2, (2, 1, environment.actions))  # many beyond the motors' range
        observations, rewards, ended = environment.step(actions)
        for task, single in enumerate(singles):
            if alive[task]:
                expected, reward, terminated, *_ = single.step(actions[task, 0])
                np.testing.assert_allclose(observations[task, 0], expected, rtol=0, atol=1e-5)
                np.testing.assert_allclose(rewards[task, 0], reward, rtol=0, atol=1e-5)
                assert terminated == ended[task, 0]
                alive[task] = not terminated
    assert alive.any()


def test_the_reward_is_the_sum_of_its_terms(robot):
    standard = (CHEETAH_REWARDS if robot == "HalfCheetah" else ANT_REWARDS)["velocity"]
    runs = {}
    for name, rewards in (("control", Rewards(1.0)), ("task", Rewards(0.0)), ("standard", standard)):
        environment = started(robot, (0.5, 2.0), 1, goal="velocity", rewards=rewards)
        runs[name] = environment.step(np.full((2, 1, environment.actions), 3.0))[1]
    squares = environment.actions * 1.0  # of actions clipped to 1
    np.testing.assert_allclose(runs["control"], runs["task"] - squares)
    # of the same velocity v in both: −|v − 0.5| + |v − 2|
    velocities = started(robot, (1.0, 1.0), 1, rewards=Rewards(0.0))
    v = velocities.step(np.full((2, 1, environment.actions), 3.0))[1]
    np.testing.assert_allclose(runs["task"], -np.abs(v - np.array([[0.5], [2.0]])), rtol=1e-6)
    backward = started(robot, (-1.0, -1.0), 1, rewards=Rewards(0.0))
    np.testing.assert_array_equal(backward.step(np.full((2, 1, environment.actions), 3.0))[1], -v)
    expected = runs["task"] - standard.control * squares + standard.alive
    np.testing.assert_allclose(runs["standard"], expected, atol=standard.contact * 100)


def test_threads_never_change_a_bit(robot):
    generator = np.random.default_rng(2)
    environments = [started(robot, episodes=3, threads=threads) for threads in (1, 2, 3)]
    for _ in range(10):
        actions = generator.uniform(-1, 1, (2, 3, environments[0].actions))
        first, *others = [environment.step(actions) for environment in environments]
        for other in others:
            assert all(np.array_equal(mine, its) for mine, its in zip(first, other, strict=True))


def test_a_restored_simulator_goes_on_bit_for_bit(robot):
    generator = np.random.default_rng(3)
    environment = started(robot)
    actions = generator.uniform(-1, 1, (20, 2, 2, environment.actions))
    for action in actions[:10]:
        environment.step(action)
    state = {name: value.clone() for name, value in environment.state_dict().items()}
    uninterrupted = [environment.step(action) for action in actions[10:]]
    other = ROBOTS[robot](threads=1)
    other.load_state_dict(state)
    for action, expected in zip(actions[10:], uninterrupted, strict=True):
        assert all(np.array_equal(mine, its) for mine, its in zip(other.step(action), expected, strict=True))


def test_a_reset_depends_on_nothing_but_the_generator(robot):
    environment = started(robot, seed=5)
    for _ in range(5):
        environment.step(np.ones((2, 2, environment.actions)))
    again = environment.reset(np.array([1.0, -1.0]), 2, np.random.default_rng(5))
    np.testing.assert_array_equal(again, ROBOTS[robot]().reset(np.array([1.0, -1.0]), 2, np.random.default_rng(5)))
    spread = environment.qpos.std((0, 1))
    assert (spread > 0).all()
    assert np.abs(environment.qpos - environment.model.qpos0).max() <= 0.1


def test_tasks_are_drawn_from_the_papers_ranges(robot):
    generator = np.random.default_rng(0)
    directions = ROBOTS[robot]("direction", threads=1).sample_tasks(200, generator)
    assert set(directions) == {-1.0, 1.0}
    assert 60 < (directions > 0).sum() < 140
    velocities = ROBOTS[robot]("velocity", threads=1).sample_tasks(200, generator)
    fastest = {"HalfCheetah": 2.0, "Ant": 3.0}[robot]
    assert velocities.min() >= 0
    assert 0.95 * fastest < velocities.max() <= fastest


@pytest.mark.parametrize("which", ["qpos", "qvel"])
def test_an_unstable_simulation_gives_nan_and_harms_no_other(robot, which, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file there
    environment = started(robot)
    states = {"qpos": environment.qpos.copy(), "qvel": environment.qvel.copy()}
    states[which][1, 0, 0] = 1e12
    environment.set_state(**states)
    observations, rewards, _ = environment.step(np.zeros((2, 2, environment.actions)))
    unstable = np.array([[False, False], [True, False]])
    np.testing.assert_array_equal(np.isnan(observations).any(-1), unstable)
    np.testing.assert_array_equal(np.isnan(rewards), unstable)
    single = put(make(f"fastmaml/{robot}Direction-v0"), states["qpos"][1, 0], states["qvel"][1, 0])
    observation, reward, *_ = single.step(np.zeros(environment.actions))
    assert np.isnan(observation).all()
    assert np.isnan(reward)
    single.reset()
    assert np.isfinite(single.step(np.zeros(environment.actions))[0]).all()


def test_bad_arguments_are_named(robot):
    with pytest.raises(ValueError, match="goal: given 'up'; allowed are 'direction' and 'velocity'"):
        ROBOTS[robot]("up")
    with pytest.raises(ValueError, match="threads: given 0"):
        ROBOTS[robot](threads=0)
    environment = ROBOTS[robot](threads=1)
    with pytest.raises(ValueError, match=r"tasks: given directions \[0.5\]; allowed are 1 and -1"):
        environment.reset(np.array([0.5]), 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"tasks: given shape \[2, 1\]; allowed is \[T\]"):
        environment.reset(np.ones((2, 1)), 2, np.random.default_rng(0))
    environment.reset(np.ones(2), 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"actions: given shape \[2, 2\]; the episodes in flight take \[2, 2, "):
        environment.step(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"state: given entries \[\]"):
        environment.load_state_dict({})
    with pytest.raises(ValueError, match="goal: given 2; allowed are the directions 1 and -1"):
        make(f"fastmaml/{robot}Direction-v0", goal=2)
