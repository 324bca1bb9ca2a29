"""What the ant alone has: contact forces, and episodes that end when it falls."""

from __future__ import annotations

import numpy as np

from tests.rl.robots import GYMNASIUM_REWARDS, make, put, started


def test_whole_episodes_are_gymnasiums_until_the_ant_falls():
    ant = started("Ant", (1.0, 1.0), 2, rewards=GYMNASIUM_REWARDS["Ant"])
    singles = {at: put(make("Ant-v5"), ant.qpos[at], ant.qvel[at]) for at in np.ndindex(2, 2)}
    generator, touched = np.random.default_rng(0), 0.0
    for _ in range(150):
        actions = generator.uniform(-1, 1, (2, 2, 8))
        observations, rewards, ended = ant.step(actions)
        for at, single in list(singles.items()):
            expected, reward, terminated, *_ = single.step(actions[at])
            np.testing.assert_allclose(observations[at], expected, rtol=0, atol=1e-9)
            np.testing.assert_allclose(rewards[at], reward, rtol=0, atol=1e-9)
            assert ended[at] == terminated
            touched = max(touched, np.abs(expected[27:]).max())
            if terminated:
                del singles[at]
    assert touched == 1.0  # contact forces were large enough to be clipped
    assert len(singles) < 4


def test_what_has_fallen_is_not_simulated_on():
    ant = started("Ant")
    qpos, qvel = ant.qpos.copy(), ant.qvel.copy()
    qpos[0, 1, 2] = 1.5  # above where it counts as standing
    ant.set_state(qpos, qvel)
    ended = ant.step(np.zeros((2, 2, 8)))[2]
    np.testing.assert_array_equal(ended, [[False, True], [False, False]])
    there = ant.qpos.copy()
    ant.step(np.ones((2, 2, 8)))
    np.testing.assert_array_equal(ant.qpos[0, 1], there[0, 1])
    assert (ant.qpos[1] != there[1]).any(-1).all()
