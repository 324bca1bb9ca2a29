"""The baselines of the regression figure are what they are said to be."""

from __future__ import annotations

import pytest
import torch

from fastmaml.evaluation import evaluate
from fastmaml.models import SinusoidMLP
from fastmaml.recipes.baselines import fine_tuning, ordinary_regression, regression_source, tune_lr
from fastmaml.tasks import Sinusoid


def model(inputs: int = 1) -> SinusoidMLP:
    net = SinusoidMLP(inputs=inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20)  # out of the flat start, where all gradients are tiny
    return net


@pytest.mark.parametrize("oracle", [False, True])
def test_pretraining_takes_the_gradient_of_ordinary_regression(oracle):
    net = model(inputs=3 if oracle else 1)
    batch = regression_source(10, oracle).sample(25, torch.Generator().manual_seed(1))
    ordinary_regression(net).meta_loss(batch).backward()
    got = [parameter.grad.clone() for parameter in net.parameters()]
    loss = torch.nn.functional.mse_loss(net(batch.query.x), batch.query.y)
    for gradient, expected in zip(got, torch.autograd.grad(loss, list(net.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_pretraining_sees_as_many_points_as_asked():
    batch = regression_source(10).sample(25, torch.Generator())
    assert batch.query.x.shape == (25, 10, 1)


def test_oracle_is_given_amplitude_and_phase():
    x = regression_source(4, oracle=True).sample(3, torch.Generator()).query.x
    assert x.shape == (3, 4, 3)
    assert (x[:, :, 1:] == x[:, :1, 1:]).all()  # the same for all points of a task
    assert len(x[:, 0, 1].unique()) == 3


def test_tuning_takes_the_step_size_of_the_lowest_curve():
    net, source = model(), Sinusoid(10, 20)
    tuning = tune_lr(net, source, steps=3, tasks=20, seed=3, grid=(1e-6, 1e-2, 1e-4))
    losses = {
        lr: evaluate(fine_tuning(net, lr), source, tasks=20, steps=3, seed=3).loss[1:].mean().item()
        for lr in (1e-6, 1e-2, 1e-4)
    }
    assert tuning.losses == pytest.approx(losses)
    assert tuning.lr == min(losses, key=losses.__getitem__)


def test_tuning_never_takes_a_step_size_that_overflows():
    tuning = tune_lr(model(), Sinusoid(10, 20), steps=9, tasks=4, seed=3, grid=(1e6, 1e-3))
    assert tuning.lr == 1e-3
    with pytest.raises(ValueError, match="not finite at any step size"):
        tune_lr(model(), Sinusoid(10, 20), steps=9, tasks=4, seed=3, grid=(1e6,))


def test_fine_tuning_is_plain_sgd():
    net, batch = model(), Sinusoid(5, 5).sample(1, torch.Generator().manual_seed(2))
    before = [parameter.detach().clone() for parameter in net.parameters()]
    adapted = fine_tuning(net, 0.02).adapt_tasks(batch.support, steps=2).state_dict(0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(batch.support.x[0]), batch.support.y[0]).backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(adapted[name], parameter.detach(), rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
