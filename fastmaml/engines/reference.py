"""The textbook: a loop over tasks, autograd through autograd. The truth that every other engine is held against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine, MetaGradient, autograd
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.plan import InnerLr, Plan


class ReferenceEngine(Engine):
    """Runs any module, on any device, in any floating dtype. Slow: one task after the other."""

    name = "reference"
    needs_layers = False

    def refusal(
        self,
        plan: Plan,
        rule: GradientRule | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        inner_lr: InnerLr | None = None,
    ) -> str | None:
        if rule is not None and not isinstance(rule, (SecondOrder, FirstOrder)):
            return f"rule {rule.name!r} is not known; accepted are SecondOrder() and FirstOrder()"
        return None

    def adapt(
        self, plan: Plan, parameters: Tensor, inner_lr: InnerLr, support: Samples, steps: int
    ) -> tuple[Tensor, Tensor]:
        starts = parameters.expand(support.num_tasks, -1)
        with autograd(True):
            tasks = [
                _adapt(plan, start.detach().requires_grad_(), inner_lr.values, task, steps, through_steps=False)
                for start, task in zip(starts, support.tasks(), strict=True)
            ]
        fast = torch.stack([theta.detach() for theta, _ in tasks])
        return fast, torch.stack(
            [torch.stack(losses) if losses else theta.new_empty(0) for theta, losses in tasks]
        ).detach()

    def meta_gradient(
        self,
        plan: Plan,
        parameters: Tensor,
        inner_lr: InnerLr,
        batch: TaskBatch,
        steps: int,
        rule: GradientRule,
    ) -> MetaGradient:
        gradient, lr_gradient = torch.zeros_like(parameters), torch.zeros_like(parameters)
        losses, outputs = [], []
        shares = batch.shares()
        equal = [1 / batch.num_tasks] * batch.num_tasks
        for support, query, share in zip(
            batch.support.tasks(), batch.query.tasks(), equal if shares is None else shares, strict=True
        ):
            with autograd(True):
                theta, lr = parameters.detach().requires_grad_(), inner_lr.values.detach().requires_grad_()
                fast, _ = _adapt(plan, theta, lr, support, steps, rule.through_steps)
                output = _forward(plan, fast, _real(query).x)
                loss = plan.loss_fn(output, _real(query).y, _real(query).weights)
                grads = torch.autograd.grad(loss, (theta, lr), materialize_grads=True)
            gradient += grads[0] * share
            lr_gradient += grads[1] * share
            losses.append(loss.detach())
            outputs.append(_with_padding(output.detach(), query))
        return MetaGradient(
            torch.stack(losses),
            plan.only_meta_learned(gradient),
            lr_gradient if inner_lr.learned else None,
            torch.stack(outputs),
        )

    def predict(self, plan: Plan, fast: Tensor, x: Tensor) -> Tensor:
        with autograd(False):
            return torch.stack([_forward(plan, theta, inputs) for theta, inputs in zip(fast, x, strict=True)])

    def hvp(self, plan: Plan, fast: Tensor, support: Samples, vectors: Tensor) -> Tensor:
        products = []
        for start, task, vector in zip(fast, support.tasks(), vectors, strict=True):
            with autograd(True):
                theta = start.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(_loss(plan, theta, task), theta, create_graph=True)
                slope = gradient @ vector.detach()
                if slope.requires_grad:
                    (product,) = torch.autograd.grad(slope, theta, materialize_grads=True)
                else:  # a loss that is linear in the parameters
                    product = torch.zeros_like(theta)
            products.append(product)
        return torch.stack(products)


def _real(task: Samples) -> Samples:
    """The samples of one task without its padding, which so has no part even in batch statistics."""
    if task.weights is None:
        return task
    real = task.weights > 0
    return Samples(task.x[real], task.y[real], task.weights[real])


def _with_padding(outputs: Tensor, task: Samples) -> Tensor:
    if task.weights is None:
        return outputs
    padded = outputs.new_zeros(task.weights.shape + outputs.shape[1:])
    padded[task.weights > 0] = outputs
    return padded


def _forward(plan: Plan, theta: Tensor, x: Tensor) -> Tensor:
    """The module's outputs with parameters theta [P]; its buffers are cloned, so that nothing is changed in it."""
    buffers = {name: buffer.clone() for name, buffer in plan.module.named_buffers()}
    return functional_call(plan.module, (plan.unflatten(theta), buffers), (x,))


def _loss(plan: Plan, theta: Tensor, task: Samples) -> Tensor:
    task = _real(task)
    return plan.loss_fn(_forward(plan, theta, task.x), task.y, task.weights)


def _adapt(
    plan: Plan, theta: Tensor, lr: Tensor, support: Samples, steps: int, through_steps: bool
) -> tuple[Tensor, list[Tensor]]:
    """θ ← θ − lr ∘ ∇L_support(θ), `steps` times; gives θ [P] and the loss before each step."""
    losses = []
    for _ in range(steps):
        loss = _loss(plan, theta, support)
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=through_steps, materialize_grads=True)
        theta = theta - lr * gradient
        losses.append(loss.detach())
    return theta, losses
