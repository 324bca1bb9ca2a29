"""What all environments have in common: what the oracle sees, and states that can be saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors

from fastmaml.rl import Ant, HalfCheetah, Navigation2D, WithTask, random_state, set_random_state

ENVIRONMENTS = {
    "navigation": lambda: Navigation2D(),
    "oracle of navigation": lambda: WithTask(Navigation2D()),
    "half-cheetah": lambda: HalfCheetah("velocity", threads=2),
    "oracle of ant": lambda: WithTask(Ant("direction", threads=2)),
}


@pytest.fixture(params=ENVIRONMENTS)
def make(request):
    return ENVIRONMENTS[request.param]


def test_shapes_are_as_announced(make):
    environment, generator = make(), np.random.default_rng(0)
    tasks = environment.sample_tasks(3, generator)
    assert len(tasks) == 3
    first = environment.reset(tasks, 2, generator)
    assert first.shape == (3, 2, environment.observations)
    observations, rewards, ended = environment.step(np.zeros((3, 2, environment.actions), np.float32))
    assert observations.shape == first.shape
    assert rewards.shape == ended.shape == (3, 2)
    assert ended.dtype == bool


def test_episodes_in_flight_are_saved_and_restored_bit_for_bit(make):
    environment, generator = make(), np.random.default_rng(0)
    assert environment.state_dict() == {}
    environment.reset(environment.sample_tasks(3, generator), 2, generator)
    actions = generator.uniform(-1, 1, (8, 3, 2, environment.actions))
    for action in actions[:4]:
        environment.step(action)
    saved = safetensors.save(environment.state_dict())
    expected = [environment.step(action) for action in actions[4:]]
    other = make()
    other.load_state_dict(safetensors.load(saved))
    for action, step in zip(actions[4:], expected, strict=True):
        assert all(np.array_equal(mine, its) for mine, its in zip(other.step(action), step, strict=True))
    environment.close()
    other.close()


def test_a_state_of_another_environment_is_refused(make):
    state = {"positions": torch.zeros(1), "velocities": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"state: given entries .*give what its state_dict\(\) returned"):
        make().load_state_dict(state)


def test_the_oracle_sees_the_goal_and_nothing_else_changes():
    plain, oracle = Navigation2D(), WithTask(Navigation2D())
    goals = np.array([[0.1, 0.2], [-0.3, 0.4]])
    first = oracle.reset(goals, 3, np.random.default_rng(0))
    plain.reset(goals, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(first[..., 2:], np.repeat(goals[:, None], 3, 1))
    actions = np.random.default_rng(1).normal(0, 0.1, (2, 3, 2))
    told, untold = oracle.step(actions), plain.step(actions)
    np.testing.assert_array_equal(told[0][..., :2], untold[0])
    np.testing.assert_array_equal(told[0][..., 2:], first[..., 2:])
    np.testing.assert_array_equal(told[1], untold[1])


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_a_generators_state_survives_a_file(kind):
    generator = np.random.Generator(kind(3))
    generator.standard_normal(7)
    generator.integers(5, dtype=np.uint32)  # leaves half a draw behind
    state = safetensors.load(safetensors.save({"state": random_state(generator)}))["state"]
    other = np.random.Generator(kind(4))
    set_random_state(other, state)
    draws = [source.integers(2**32, size=5, dtype=np.uint32) for source in (generator, other)]
    np.testing.assert_array_equal(*draws)
    np.testing.assert_array_equal(other.random(5), generator.random(5))


def test_a_state_of_another_generator_is_refused():
    state = random_state(np.random.Generator(np.random.MT19937(0)))
    for wrong in (state, torch.tensor([1, 2, 3], dtype=torch.uint8)):
        with pytest.raises(ValueError, match="state: is none of a PCG64 generator; give what random_state"):
            set_random_state(np.random.default_rng(), wrong)


@pytest.mark.parametrize(
    ("bits", "change"),
    [
        (np.random.MT19937, lambda state: state["state"].update(pos=1000)),
        (np.random.Philox, lambda state: state.update(buffer_pos=-1)),
        (np.random.PCG64, lambda state: state["state"].update(inc=2**128)),
        (np.random.PCG64, lambda state: state["state"].update(inc=1.5)),
        (np.random.PCG64, lambda state: state.update(state="x")),
    ],
)
def test_a_place_that_numpy_would_read_beyond_is_refused(bits, change):
    generator, other = np.random.Generator(bits(1)), np.random.Generator(bits(2))
    set_random_state(other, random_state(generator))
    assert generator.random() == other.random()
    state = json.loads(bytes(random_state(generator).tolist()))
    change(state)
    damaged = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match=f"state: is none of a {bits.__name__} generator"):
        set_random_state(other, damaged)
