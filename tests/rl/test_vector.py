"""Users' own environments, through Gymnasium's vector API."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from fastmaml.rl import GymnasiumEnvironment, Navigation2D, sample
from tests.rl.policy import Choice, Exact


class Corridor(gymnasium.Env):
    """A place on a line of `length` cells, numbered from `first`; a task is the cell that pays, where it ends."""

    def __init__(self, goal=2, length=5, first=0, slip=0.0):
        self.observation_space, self.action_space = spaces.Discrete(length, start=first), spaces.Discrete(2, start=-1)
        self.goal, self.length, self.first, self.slip = int(goal), length, first, slip

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(2))
        return self.first + self.place, {}

    def step(self, action):
        assert self.action_space.contains(action)
        move = 1 if action == 0 else -1
        self.place = int(np.clip(self.place + move * (self.np_random.random() >= self.slip), 0, self.length - 1))
        there = self.place == self.goal
        return self.first + self.place, float(there), there, False, {}


class Bounded(gymnasium.Env):
    """A matrix of actions between −1 and 2, of which it keeps the last; the reward is their sum."""

    observation_space = spaces.Box(-1, 2, (2, 3), np.float64)
    action_space = spaces.Box(-1, 2, (2, 3), np.float32)

    def __init__(self, task=0.0):
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((2, 3), self.task), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return action.astype(float), float(action.sum() + self.task), False, False, {}


def goals(count, generator):
    return generator.integers(2, 5, count)


def levels(count, generator):
    return generator.uniform(0, 1, count)


def to_the_right(observations):
    return torch.tensor([0.0, 1.0]).expand(*observations.shape[:2], 2)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_discrete_spaces(vectorization):
    environment = GymnasiumEnvironment(lambda goal: Corridor(goal, first=3), goals, 10, vectorization=vectorization)
    assert (environment.observations, environment.actions, environment.discrete) == (5, 2, True)
    episodes = sample(environment, Choice, to_the_right, np.array([2, 4]), 2, np.random.default_rng(0))
    environment.close()
    starts = episodes.observations[:, :, 0].argmax(-1)
    torch.testing.assert_close(episodes.observations[:, :, 0].sum(-1), torch.ones(2, 2))  # one-hot
    assert set(starts.flatten().tolist()) <= {0, 1}
    torch.testing.assert_close(episodes.real.sum(-1), torch.tensor([[2], [4]]) - starts)
    torch.testing.assert_close(episodes.returns, torch.ones(2))


def test_boxes_are_flattened_and_actions_clipped_to_them():
    environment = GymnasiumEnvironment(Bounded, levels, horizon=3)
    assert (environment.observations, environment.actions, environment.discrete) == (6, 6, False)
    outputs = torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0, 9.0])
    act = lambda observations: outputs.expand(2, 1, 6)  # noqa: E731
    episodes = sample(environment, Exact, act, np.array([0.0, 0.5]), 1, np.random.default_rng(0))
    kept = outputs.clamp(-1, 2)
    torch.testing.assert_close(episodes.observations[1, 0], torch.stack([torch.full((6,), 0.5), kept, kept]))
    torch.testing.assert_close(episodes.rewards[1, 0], (kept.sum() + 0.5).expand(3))
    torch.testing.assert_close(episodes.actions[1, 0, 0], outputs)  # what the policy drew, whose likelihood counts


@pytest.mark.parametrize("attribute", [None, "goal"])
def test_it_gives_the_episodes_of_the_batched_form(attribute):
    make = lambda goal: gymnasium.make("fastmaml/Navigation2D-v0", goal=goal)  # noqa: E731
    batched = Navigation2D()
    environment = GymnasiumEnvironment(make, batched.sample_tasks, attribute=attribute)
    assert environment.horizon == batched.horizon
    act = lambda observations: 0.05 - 0.3 * observations  # noqa: E731
    for seed in range(2):  # the second time, the copies are there already
        tasks = batched.sample_tasks(3, np.random.default_rng(seed))
        runs = [sample(each, Exact, act, tasks, 2, np.random.default_rng(0)) for each in (environment, batched)]
        for name in ("observations", "actions", "rewards", "real"):
            torch.testing.assert_close(*(getattr(run, name) for run in runs))


def test_an_episode_ends_where_the_environment_cuts_it():
    make = lambda level: gymnasium.wrappers.TimeLimit(Bounded(level), 2)  # noqa: E731
    act = lambda observations: torch.zeros(1, 3, 6)  # noqa: E731
    episodes = sample(GymnasiumEnvironment(make, levels, 5), Exact, act, np.ones(1), 3, np.random.default_rng(0))
    assert episodes.steps == 6
    assert episodes.real.shape == (1, 3, 2)


def test_copies_are_kept_where_their_task_can_be_set():
    made = []
    make = lambda goal: made.append(goal) or Corridor(goal)  # noqa: E731
    environment = GymnasiumEnvironment(make, goals, 10, attribute="goal")
    made.clear()
    for tasks in ([2, 3], [4, 2]):
        episodes = sample(environment, Choice, to_the_right, np.array(tasks), 1, np.random.default_rng(0))
        starts = episodes.observations[:, 0, 0].argmax(-1)
        torch.testing.assert_close(episodes.real.sum((1, 2)), torch.tensor(tasks) - starts)
    assert made == [2, 3]


def test_episodes_follow_from_the_generator():
    environment = GymnasiumEnvironment(lambda goal: Corridor(goal, slip=0.5), goals, 30)
    runs = [
        sample(environment, Choice, to_the_right, np.array([4, 4, 4]), 3, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0].observations, runs[1].observations)
    assert runs[0].observations.shape != runs[2].observations.shape or not torch.equal(
        runs[0].observations, runs[2].observations
    )


def test_there_is_no_state_but_in_mid_episode():
    environment = GymnasiumEnvironment(Bounded, levels, horizon=2)
    assert environment.state_dict() == {}
    environment.load_state_dict({})
    environment.reset(np.zeros(1), 2, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="cannot be saved in mid-episode; save between samples"):
        environment.state_dict()
    for _ in range(2):
        environment.step(np.zeros((1, 2, 6)))
    assert environment.state_dict() == {}
    with pytest.raises(ValueError, match=r"state: given entries \['positions'\]"):
        environment.load_state_dict({"positions": torch.zeros(1)})


class Odd(Bounded):
    def __init__(self, observation_space, action_space):
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space


BOX = Bounded.action_space


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (spaces.MultiBinary(3), BOX, r"observation space is MultiBinary\(3\); allowed are Box and Discrete"),
        (spaces.Dict(a=BOX), BOX, r"observation space is Dict\(.*FlattenObservation"),
        (BOX, spaces.MultiDiscrete([2, 3]), r"action space is MultiDiscrete\(\[2 3\]\); allowed are Discrete and Box"),
        (BOX, spaces.Tuple([BOX]), r"action space is Tuple\(.*TransformAction"),
        (BOX, spaces.Box(0, 9, (2,), np.int64), r"action space is Box\(.*int64\); .* of floating-point numbers"),
    ],
)
def test_other_spaces_are_refused(observation_space, action_space, message):
    with pytest.raises(ValueError, match=message):
        GymnasiumEnvironment(lambda task: Odd(observation_space, action_space), levels, 5)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_tasks_with_different_spaces_are_refused(vectorization):
    make = lambda length: Corridor(length=int(length))  # noqa: E731
    environment = GymnasiumEnvironment(make, lambda count, _: np.full(count, 5), 10, vectorization=vectorization)
    with pytest.raises(ValueError, match=r"make: the environment of task 6 has .*Discrete\(6\).* another task's has"):
        environment.reset(np.array([5, 6]), 1, np.random.default_rng(0))


def test_a_task_that_changes_the_spaces_of_kept_copies_is_refused():
    class Growing(Corridor):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "goal":
                self.observation_space = spaces.Discrete(5 + (value > 3))

    environment = GymnasiumEnvironment(Growing, lambda count, _: np.full(count, 2), 10, attribute="goal")
    environment.reset(np.array([2]), 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="make: the environment of task 4 has"):
        environment.reset(np.array([4]), 1, np.random.default_rng(0))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="vectorization: given 'threads'; allowed are 'sync' and 'async'"):
        GymnasiumEnvironment(Bounded, levels, 5, vectorization="threads")
    with pytest.raises(ValueError, match="horizon: not given, and the environment has no max_episode_steps"):
        GymnasiumEnvironment(Bounded, levels)
    with pytest.raises(ValueError, match="horizon: given 0"):
        GymnasiumEnvironment(Bounded, levels, 0)
    with pytest.raises(ValueError, match="attribute: given 'gaol', which the environment does not have"):
        GymnasiumEnvironment(Corridor, goals, 5, attribute="gaol")
    environment = GymnasiumEnvironment(Bounded, levels, 5)
    environment.reset(np.zeros(1), 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"actions: given shape \[1, 2, 2, 3\]; .* take \[1, 2, 6\]"):
        environment.step(np.zeros((1, 2, 2, 3)))
