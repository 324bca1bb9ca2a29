"""The textbook of the outer update, by autograd through autograd: what `fastmaml.rl.curvature` is held against.

One task after the other, any module, any number of inner steps, any dtype. With `L_i` the loss of task i and θ_i(θ)
what its inner steps make of θ, the surrogate's gradient is ∇ mean L_i(θ_i(θ)), and the curvature is the Hessian of
mean KL_i(θ_i(θ)): a gradient of a gradient of steps that are gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call

from fastmaml.batch import Samples, TaskBatch
from fastmaml.plan import Plan


def gradient(plan: Plan, theta: Tensor, lr: Tensor, batch: TaskBatch, steps: int) -> Tensor:
    """∇ of the mean query loss after the inner steps, with respect to θ [P]; lr [P] is the inner step size."""
    theta = theta.detach().requires_grad_()
    (found,) = torch.autograd.grad(mean_loss(plan, theta, lr, batch, steps), theta)
    return found


def curvature(plan: Plan, theta: Tensor, lr: Tensor, batch: TaskBatch, steps: int) -> Callable[[Tensor], Tensor]:
    """v [P] ↦ Hessian of the mean query loss after the inner steps, times v.

    With the KL divergence as query loss this is TRPO's curvature; its graph is kept from product to product.
    """
    theta = theta.detach().requires_grad_()
    loss = mean_loss(plan, theta, lr, batch, steps)
    (slope,) = torch.autograd.grad(loss, theta, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(slope @ vector, theta, retain_graph=True)
        return found

    return product


def mean_loss(plan: Plan, theta: Tensor, lr: Tensor, batch: TaskBatch, steps: int) -> Tensor:
    """The mean over tasks of the query loss after `steps` inner steps from θ, as a graph of θ."""
    losses = []
    for support, query in zip(_tasks(batch.support), _tasks(batch.query), strict=True):
        fast = theta
        for _ in range(steps):
            (step,) = torch.autograd.grad(_loss(plan, fast, support), fast, create_graph=True)
            fast = fast - lr * step
        losses.append(_loss(plan, fast, query))
    return torch.stack(losses).mean()


def _loss(plan: Plan, theta: Tensor, task: Samples) -> Tensor:
    return plan.loss_fn(functional_call(plan.module, plan.unflatten(theta), (task.x,)), task.y, task.weights)


def _tasks(samples: Samples) -> list[Samples]:
    weights = samples.weights if samples.weights is not None else [None] * samples.num_tasks
    return [Samples(*task) for task in zip(samples.x, samples.y, weights, strict=True)]
