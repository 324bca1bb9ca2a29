"""Actions in units of their bounds."""

from __future__ import annotations

import numpy as np
import pytest

from fastmaml.rl import Navigation2D, ScaledActions, WithTask


def test_actions_are_scaled_and_nothing_else_is():
    goals, plain, scaled = np.array([[0.3, -0.2], [-0.5, 0.4]]), Navigation2D(), ScaledActions(Navigation2D(), 0.1)
    for environment in (plain, scaled):
        environment.reset(goals, 3, np.random.default_rng(0))
    actions = np.random.default_rng(1).normal(0, 1, (2, 3, 2))
    for mine, its in zip(scaled.step(actions), plain.step(actions * 0.1), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert scaled.state_dict().keys() == plain.state_dict().keys()
    other = ScaledActions(Navigation2D(), 0.1)
    other.load_state_dict(scaled.state_dict())
    np.testing.assert_array_equal(other.step(actions)[0], plain.step(actions * 0.1)[0])
    told = WithTask(scaled).reset(goals, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(told[:, 0, 2:], goals)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_scale_that_is_none_is_named(scale):
    with pytest.raises(ValueError, match=r"scale: given .*; allowed are positive finite numbers"):
        ScaledActions(Navigation2D(), scale)


def test_discrete_actions_have_no_scale():
    discrete = Navigation2D()
    discrete.discrete = True
    with pytest.raises(ValueError, match="inner: its actions are discrete"):
        ScaledActions(discrete, 0.5)
