"""The reference against finite differences, and against MAML written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from fastmaml import FirstOrder, Samples, SecondOrder, TaskBatch
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.plan import InnerLr, Plan
from tests.problems import finite_differences, inner_lr, network, parameters_of, samples, task_batch

ENGINE = ReferenceEngine()
CASES = [("mse", False), ("mse", True), ("cross_entropy", False), ("cross_entropy", True)]


def problem(loss="mse", norm=False, **kinds):
    plan = Plan.of(network((3, 4, 2), norm=norm), loss)
    return plan, parameters_of(plan), task_batch(loss=loss, **kinds)


def query_loss(plan, theta, lr, batch, steps):
    """Mean query loss over tasks after adaptation, through the verbs that need no second derivative."""
    fast, _ = ENGINE.adapt(plan, theta, lr, batch.support, steps)
    outputs = ENGINE.predict(plan, fast, batch.query.x)
    return torch.stack([plan.loss_fn(o, y, None) for o, y in zip(outputs, batch.query.y, strict=True)]).mean()


@pytest.mark.parametrize(("loss", "norm"), CASES)
@pytest.mark.parametrize("steps", [1, 3])
def test_second_order_is_the_derivative_of_the_query_loss(loss, norm, steps):
    plan, theta, batch = problem(loss, norm)
    lr = inner_lr(plan)
    result = ENGINE.meta_gradient(plan, theta, lr, batch, steps, SecondOrder())
    wanted = finite_differences(lambda t: query_loss(plan, t, lr, batch, steps), theta)
    torch.testing.assert_close(result.gradient, wanted, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(result.query_losses.mean(), query_loss(plan, theta, lr, batch, steps))


@pytest.mark.parametrize(("loss", "norm"), CASES)
def test_inner_lr_gradient_is_the_derivative_of_the_query_loss(loss, norm):
    plan, theta, batch = problem(loss, norm)
    lr = InnerLr(0.05 + 0.1 * torch.rand_like(theta), uniform=False, learned=True)
    result = ENGINE.meta_gradient(plan, theta, lr, batch, 2, SecondOrder())
    wanted = finite_differences(lambda v: query_loss(plan, theta, InnerLr(v), batch, 2), lr.values)
    torch.testing.assert_close(result.inner_lr_gradient, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_first_order_is_the_gradient_at_the_adapted_parameters(loss):
    plan, theta, batch = problem(loss)
    lr = InnerLr(torch.full_like(theta, 0.1), learned=True)
    result = ENGINE.meta_gradient(plan, theta, lr, batch, 3, FirstOrder())
    gradient, lr_gradient = torch.zeros_like(theta), torch.zeros_like(theta)
    for task in range(3):
        at, inner = theta, torch.zeros_like(theta)
        for _ in range(3):
            step = by_hand(plan, at, batch.support.x[task], batch.support.y[task])
            at, inner = at - 0.1 * step, inner + step
        outer = by_hand(plan, at, batch.query.x[task], batch.query.y[task])
        gradient, lr_gradient = gradient + outer / 3, lr_gradient - inner * outer / 3
    torch.testing.assert_close(result.gradient, gradient)
    torch.testing.assert_close(result.inner_lr_gradient, lr_gradient)


def by_hand(plan, theta, x, y):
    """Gradient of torch's own loss."""
    loss = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy}[plan.loss_name]
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(functional_call(plan.module, plan.unflatten(theta), (x,)), y), theta)[0]


def test_hvp_is_the_derivative_of_the_gradient():
    plan, theta, batch = problem("cross_entropy", norm=True)
    vector = torch.randn_like(theta)
    product = ENGINE.hvp(plan, theta.expand(3, -1), batch.support, vector.expand(3, -1))
    for task in range(3):
        x, y = batch.support.x[task], batch.support.y[task]
        wanted = (by_hand(plan, theta + 1e-5 * vector, x, y) - by_hand(plan, theta - 1e-5 * vector, x, y)) / 2e-5
        torch.testing.assert_close(product[task], wanted, rtol=1e-6, atol=1e-8)


def test_hvp_of_a_loss_without_curvature_is_zero():
    plan = Plan.of(nn.Linear(3, 2).double(), lambda outputs, targets: outputs.mean())
    support, vectors = samples(), torch.ones(3, plan.num_parameters).double()
    product = ENGINE.hvp(plan, parameters_of(plan).expand(3, -1), support, vectors)
    assert torch.equal(product, torch.zeros_like(vectors))


@pytest.mark.parametrize("norm", [False, True])
def test_padding_is_as_if_it_were_not_there(norm):
    plan, theta, batch = problem("cross_entropy", norm, ragged=True)
    lr, rule = inner_lr(plan), SecondOrder()
    spoilt = TaskBatch(*(poison(part) for part in (batch.support, batch.query)))
    ragged = ENGINE.meta_gradient(plan, theta, lr, spoilt, 2, rule)
    alone = [
        ENGINE.meta_gradient(plan, theta, lr, TaskBatch(dropped(batch.support, t), dropped(batch.query, t)), 2, rule)
        for t in range(3)
    ]
    torch.testing.assert_close(ragged.query_losses, torch.cat([one.query_losses for one in alone]))
    torch.testing.assert_close(ragged.gradient, torch.stack([one.gradient for one in alone]).mean(0))
    for t, one in enumerate(alone):
        torch.testing.assert_close(ragged.query_outputs[t][batch.query.weights[t] > 0], one.query_outputs[0])


def poison(part):
    """NaN and an impossible label wherever the weight is zero."""
    padding = part.weights == 0
    return Samples(part.x.masked_fill(padding[..., None], torch.nan), part.y.masked_fill(padding, -9), part.weights)


def dropped(part, task):
    """One task without its padding."""
    real = part.weights[task] > 0
    return Samples(part.x[task][real][None], part.y[task][real][None], part.weights[task][real][None])


def test_adapt_takes_plain_gradient_steps():
    plan, theta, batch = problem()
    fast, losses = ENGINE.adapt(plan, theta, inner_lr(plan), batch.support, 2)
    for task in range(3):
        x, y, at = batch.support.x[task], batch.support.y[task], theta
        for step in range(2):
            torch.testing.assert_close(
                losses[task, step], F.mse_loss(functional_call(plan.module, plan.unflatten(at), (x,)), y)
            )
            at = at - 0.1 * by_hand(plan, at, x, y)
        torch.testing.assert_close(fast[task], at)


def test_adapt_from_parameters_of_each_task_and_in_no_steps():
    plan, theta, batch = problem()
    lr = inner_lr(plan)
    twice, _ = ENGINE.adapt(plan, theta, lr, batch.support, 2)
    once, _ = ENGINE.adapt(plan, theta, lr, batch.support, 1)
    torch.testing.assert_close(ENGINE.adapt(plan, once, lr, batch.support, 1)[0], twice)
    fast, losses = ENGINE.adapt(plan, theta, lr, batch.support, 0)
    assert torch.equal(fast, theta.expand(3, -1))
    assert losses.shape == (3, 0)


def test_batch_norm_uses_the_batch_at_hand_and_leaves_its_statistics_alone():
    plan, theta, batch = problem(norm=True)
    before = {name: buffer.clone() for name, buffer in plan.module.named_buffers()}
    ENGINE.meta_gradient(plan, theta, inner_lr(plan), batch, 2, SecondOrder())
    assert all(torch.equal(buffer, before[name]) for name, buffer in plan.module.named_buffers())
    outputs = ENGINE.predict(plan, theta.expand(3, -1), batch.query.x)
    torch.testing.assert_close(outputs[0], plan.module(batch.query.x[0]).detach())


def test_tied_parameters_and_any_module():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
            self.last.weight = self.first.weight

        def forward(self, x):
            x = self.first(x)
            return self.last(self.attention(x, x, x, need_weights=False)[0])

    plan = Plan.of(Attention().double())
    theta = parameters_of(plan)
    part = Samples(torch.randn(2, 3, 5, 4).double(), torch.randn(2, 3, 5, 4).double())
    result = ENGINE.meta_gradient(plan, theta, inner_lr(plan), TaskBatch(part, part), 1, SecondOrder())
    batch = TaskBatch(part, part)
    wanted = finite_differences(lambda t: query_loss(plan, t, inner_lr(plan), batch, 1), theta)
    torch.testing.assert_close(result.gradient, wanted, rtol=1e-5, atol=1e-8)
