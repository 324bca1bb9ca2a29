"""Sampling of all tasks' episodes at once, and the advantages of what was done."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fastmaml import MAML
from fastmaml.rl import BatchedEnvironment, Episodes, HalfCheetah, Navigation2D, advantages, random_state, sample
from fastmaml.rl.random_state import set_random_state
from fastmaml.rl.rollouts import as_samples
from tests.rl.policy import Exact, Noisy


class Countdown(BatchedEnvironment):
    """A task is the length of its first episode; each further one is longer by one. Observed is the step, and the
    reward is 1 at every step."""

    observations, actions, horizon = 1, 1, 6

    def __init__(self, breaks=None):
        self.breaks = breaks or {}  # by step: the reward of task 1, episode 0
        self.told = []

    def sample_tasks(self, count, generator):
        return np.arange(1.0, count + 1)

    def reset(self, tasks, episodes, generator):
        self.lengths, self.steps = tasks[:, None] + np.arange(episodes), 0
        return np.full((len(tasks), episodes, 1), float(self.breaks.get("first", 0)))

    def step(self, actions):
        self.told.append(actions)
        self.steps += 1
        rewards = np.ones(self.lengths.shape)
        rewards[1, 0] = self.breaks.get(self.steps, 1.0)
        observations = np.full((*self.lengths.shape, 1), float(self.steps))
        observations[self.lengths < self.steps] = np.nan  # what comes after the end means nothing
        return observations, rewards, self.steps >= self.lengths


def run(environment, act, tasks=2, episodes=3, policy=Exact):
    return sample(environment, policy, act, np.arange(1.0, tasks + 1), episodes, np.random.default_rng(0))


def test_episodes_of_different_lengths_are_padded_with_nothing():
    seen = []
    episodes = run(Countdown(), lambda observations: seen.append(observations.clone()) or observations + 10)
    real = torch.arange(4) < torch.tensor([[1, 2, 3], [2, 3, 4]])[..., None]  # the longest has four steps
    torch.testing.assert_close(episodes.real, real)
    torch.testing.assert_close(episodes.rewards, real.float())
    torch.testing.assert_close(episodes.observations[..., 0], torch.arange(4.0).expand(2, 3, 4) * real)
    torch.testing.assert_close(episodes.outputs[real], episodes.observations[real] + 10)
    torch.testing.assert_close(episodes.actions, episodes.outputs)
    torch.testing.assert_close(episodes.returns, torch.tensor([2.0, 3.0]))
    assert episodes.steps == 15
    assert [tuple(x.shape) for x in seen] == [(2, 3, 1)] * 4  # one call a step, for all tasks


def test_padding_weighs_nothing_in_the_samples():
    class Targets:
        reinforce_targets = staticmethod(lambda outputs, actions, scale: torch.cat([actions, scale[..., None]], -1))

    episodes = run(Countdown(), lambda observations: observations)
    scale = torch.rand(2, 3, 4)
    samples = as_samples(Targets, episodes, scale)
    assert samples.x.shape == (2, 12, 1)
    torch.testing.assert_close(samples.weights, episodes.real.flatten(1).float())
    torch.testing.assert_close(samples.y[..., 1], scale.flatten(1))
    full = run(Countdown(), lambda observations: observations, episodes=1, tasks=6)
    assert as_samples(Targets, full, torch.ones(6, 1, 6)).weights is not None
    whole = Episodes(*(getattr(full, name)[5:] for name in ("observations", "actions", "outputs", "rewards", "real")))
    assert as_samples(Targets, whole, torch.ones(1, 1, 6)).weights is None


def test_each_task_is_run_by_its_own_adapted_policy():
    maml = MAML(nn.Linear(2, 2), lr=0.1, loss="mse")
    fast = torch.zeros(3, 6)
    fast[:, 4:] = torch.tensor([[0.02, 0.0], [0.0, -0.03], [-0.01, 0.04]])  # biases: constant velocities
    graph = []
    goals = np.full((3, 2), 0.5)

    def act(observations):
        graph.append(torch.is_grad_enabled())
        return maml.run_adapted(fast, observations)

    episodes = sample(Navigation2D(10), Exact, act, goals, 4, np.random.default_rng(0))
    steps = torch.arange(10.0)[:, None]
    for task in range(3):
        torch.testing.assert_close(episodes.observations[task], (steps * fast[task, 4:]).expand(4, 10, 2))
    distances = (torch.full((2,), 0.5) - (steps + 1) * fast[:, None, 4:]).norm(dim=-1)
    torch.testing.assert_close(episodes.returns, -distances.sum(-1))
    assert not any(graph)  # sampling keeps no graph


@pytest.mark.parametrize("environment", [Navigation2D(20), HalfCheetah("velocity", 5, threads=2)])
def test_a_restored_generator_gives_the_same_episodes_bit_for_bit(environment):
    generator = np.random.default_rng(0)
    act = lambda observations: observations[..., : environment.actions] * 0.1  # noqa: E731
    sample(environment, Noisy, act, environment.sample_tasks(2, generator), 2, generator)
    state = random_state(generator)
    expected = sample(environment, Noisy, act, environment.sample_tasks(2, generator), 2, generator)
    other = np.random.default_rng(99)
    set_random_state(other, state)
    again = sample(environment, Noisy, act, environment.sample_tasks(2, other), 2, other)
    for name in ("observations", "actions", "rewards"):
        assert torch.equal(getattr(again, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ({2: np.nan}, r"at step 1 the reward of task 1, episode 0 is \[nan\].*end an episode before"),
        ({1: np.inf}, r"at step 0 the reward of task 1, episode 0 is \[inf\]"),
        ({"first": np.nan}, r"the first observation of task 0, episode 0 is \[nan\]"),
    ],
)
def test_an_episode_with_nan_is_named(breaks, message):
    with pytest.raises(ValueError, match=message):
        run(Countdown(breaks), lambda observations: observations)


def test_nan_after_the_end_is_nobodys_business():
    episodes = run(Countdown({3: np.nan}), lambda observations: observations)  # task 1, episode 0 ends at step 2
    assert all(torch.isfinite(x).all() for x in (episodes.observations, episodes.rewards, episodes.outputs))


def test_a_policy_that_has_diverged_is_named_and_not_the_environment():
    environment = Countdown()
    act = lambda observations: torch.where(observations == 2, torch.nan, observations)  # noqa: E731
    with pytest.raises(ValueError, match=r"policy: at step 2 the output of task 0, episode 2 is \[nan\].*inner lr"):
        run(environment, act)
    assert len(environment.told) == 2


def test_an_unstable_simulation_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    environment = HalfCheetah(threads=1)

    def act(observations):
        environment.qvel[1, 0] = 1e12
        return torch.zeros(2, 2, 6)

    with pytest.raises(ValueError, match=r"at step 0 the reward of task 1, episode 0 is \[nan\]"):
        sample(environment, Exact, act, np.ones(2), 2, np.random.default_rng(0))


def random_episodes(generator, lengths, observations=2):
    tasks, count = lengths.shape
    horizon = int(lengths.max())
    real = torch.arange(horizon) < lengths[..., None]
    seen = torch.randn(tasks, count, horizon, observations, generator=generator) * real[..., None]
    rewards = torch.randn(tasks, count, horizon, generator=generator) * real
    return Episodes(seen, seen, seen, rewards, real)


def by_hand(episodes, task, discount, gae):
    """The advantages of one task, an episode and a step at a time, in float64."""
    lists = []
    for episode in range(episodes.real.shape[1]):
        length = int(episodes.real[task, episode].sum())
        rewards = episodes.rewards[task, episode, :length].double().numpy()
        returns = [sum(discount**k * r for k, r in enumerate(rewards[t:])) for t in range(length)]
        o = np.clip(episodes.observations[task, episode, :length].double().numpy(), -10, 10)
        t = np.arange(length)[:, None] / 100
        lists.append((np.hstack([o, o**2, t, t**2, t**3, np.ones_like(t)]), rewards, np.array(returns)))
    features, returns = np.vstack([x for x, _, _ in lists]), np.concatenate([y for _, _, y in lists])
    gram = features.T @ features + 1e-5 * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ returns)
    raw = []
    for x, rewards, _ in lists:
        values = np.append(x @ weights, 0.0)
        deltas = rewards + discount * values[1:] - values[:-1]
        raw.append([sum((discount * gae) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(rewards))])
    flat = np.concatenate(raw)
    return [(np.array(row) - flat.mean()) / (flat.std() + 1e-8) for row in raw]


@pytest.mark.parametrize("gae", [1.0, 0.9])
def test_advantages_are_those_computed_a_step_at_a_time(gae):
    lengths = torch.tensor([[7, 30, 12, 30], [30, 30, 30, 30], [1, 2, 30, 25]])
    episodes = random_episodes(torch.Generator().manual_seed(0), lengths)
    found = advantages(episodes, 0.95, gae)
    assert (found[~episodes.real] == 0).all()
    for task in range(3):
        for episode, expected in enumerate(by_hand(episodes, task, 0.95, gae)):
            row = found[task, episode, : len(expected)].numpy()
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_advantages_do_not_depend_on_the_padding_or_on_other_tasks():
    lengths = torch.tensor([[5, 9], [20, 20]])
    episodes = random_episodes(torch.Generator().manual_seed(1), lengths)
    fields = ("observations", "actions", "outputs", "rewards", "real")
    alone = Episodes(*(getattr(episodes, name)[:1, :, :9] for name in fields))
    torch.testing.assert_close(advantages(episodes)[:1, :, :9], advantages(alone), rtol=1e-5, atol=1e-5)
