"""Necessary operations, held against what autograd through autograd really multiplies."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.operations import necessary
from bench.problem import Problem, omniglot_mlp, sinusoid
from bench.rivals import prepare
from fastmaml.batch import Samples, TaskBatch
from fastmaml.plan import Plan


def counted(problem: Problem) -> int:
    step = prepare("loop", problem)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def of(problem: Problem) -> int:
    batch = problem.batch
    sizes = batch.num_tasks, batch.support.num_samples, batch.query.num_samples
    return necessary(problem.plan, *sizes, problem.steps, tuple(batch.support.x.shape[2:]))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_narrow_input_is_what_autograd_multiplies(steps):
    problem = sinusoid(steps, tasks=3, points=4)
    assert of(problem) == counted(problem)


def test_batch_norm_in_front_gives_the_first_linear_layer_a_tangent():
    network = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    samples = Samples(torch.randn(2, 6, 3), torch.randn(2, 6, 2))
    problem = Problem("norm first", network, TaskBatch(samples, samples), steps=2, lr=0.1, loss="mse")
    assert of(problem) == counted(problem)


def test_wide_input_needs_less_than_autograd_multiplies():
    problem = omniglot_mlp(steps=3, tasks=2)
    assert of(problem) < counted(problem)


def test_wide_input_by_hand():
    plan = Plan.of(nn.Linear(1000, 2))
    n, m, k = 3, 4, 2
    weights = 2 * 1000 * 2 * (2 * n + 2 * m)  # forward and final gradient, on the support and the query samples
    grams = 1000 * n * (n + 1) + 2 * 1000 * n * m  # the first is symmetric
    per_step = 2 * 2 * (2 * n * n * (k - 1) + 2 * n * m)
    assert necessary(plan, 1, n, m, k) == min(weights + grams + per_step, 2 * 2000 * (4 * k * n + 2 * m))


def test_a_plan_without_layers_is_refused():
    with pytest.raises(ValueError, match="plan: operations are counted from its layers"):
        necessary(Plan.of(nn.Conv1d(1, 1, 1)), 1, 1, 1, 1)


def on_images(padding: int) -> Problem:
    layers = [nn.Conv2d(2, 3, 3, padding=padding), nn.Tanh(), nn.Conv2d(3, 4, 3, stride=2, padding=padding)]
    width = 16 if padding == 0 else 36
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 2))
    samples = Samples(torch.randn(2, 3, 2, 7 if padding == 0 else 6, 7 if padding == 0 else 6), torch.randn(2, 3, 2))
    return Problem("images", network, TaskBatch(samples, samples), steps=2, lr=0.1, loss="mse")


def test_convolutions_without_padding_are_what_autograd_multiplies():
    first_layer = 2 * 25 * 9 * 2 * 3
    superfluous = 2 * 2 * 3 * first_layer  # autograd's double backward also takes a product that nobody asks for
    assert of(on_images(0)) + superfluous == counted(on_images(0))


def test_products_with_padding_are_not_necessary():
    assert of(on_images(1)) < counted(on_images(1))
    plan = Plan.of(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert necessary(plan, 1, 1, 1, 1, (1, 2, 2)) == 2 * 16 * (4 + 2)  # every tap that meets one of 2×2 pixels


def test_images_need_a_size():
    with pytest.raises(ValueError, match="sample: not given"):
        necessary(on_images(0).plan, 1, 1, 1, 1)
