"""torch.func: gradients of functions, batched over tasks by vmap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vmap

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine, MetaGradient, autograd
from fastmaml.engines.functional.norms import ExactNorms
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.plan import InnerLr, Plan
from fastmaml.plan.statistics import updates_statistics, without_statistics


class FunctionalEngine(Engine):
    """Runs any module that torch.func takes, on any device, with all tasks in one batch.

    A module whose samples act on each other (batch norm) needs tasks without padding, which vmap cannot drop.
    """

    name = "functional"
    needs_layers = False

    def __init__(self) -> None:
        self._skeletons: WeakKeyDictionary[Plan, nn.Module] = WeakKeyDictionary()

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

    def data_refusal(self, plan: Plan, samples: Samples) -> str | None:
        if samples.weights is None or not plan.has_batch_norm or bool((samples.weights > 0).all()):
            return None
        return (
            "the weights hold zeros (padding) and the model has batch norm, whose statistics padding would enter; "
            "the engines 'reference' and 'cpu' leave padding out"
        )

    def adapt(
        self, plan: Plan, parameters: Tensor, inner_lr: InnerLr, support: Samples, steps: int
    ) -> tuple[Tensor, Tensor]:
        task = self._task(plan)
        starts = parameters.detach().expand(support.num_tasks, -1)

        def adapt(theta: Tensor, data: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            return task.adapt(theta, inner_lr.values, data, steps, True)

        with _transforming(plan):
            fast, losses = _over_tasks(adapt)(starts, _data(support))
        return fast.clone(), losses

    def meta_gradient(
        self,
        plan: Plan,
        parameters: Tensor,
        inner_lr: InnerLr,
        batch: TaskBatch,
        steps: int,
        rule: GradientRule,
    ) -> MetaGradient:
        task, shares = self._task(plan), batch.shares()

        def query(theta: Tensor, lr: Tensor, support: Any, query: Any) -> tuple[Tensor, Tensor]:
            fast, _ = task.adapt(theta, lr, support, steps, rule.through_steps)
            return task.loss(fast, query)

        def mean_query(theta: Tensor, lr: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            over_tasks = vmap(query, in_dims=(None, None, 0, 0), randomness="different")
            losses, outputs = over_tasks(theta, lr, _data(batch.support), _data(batch.query))
            return losses.mean() if shares is None else losses @ shares, (losses, outputs)

        wanted = (0, 1) if inner_lr.learned else (0,)
        with _transforming(plan):
            lr = inner_lr.values.detach()
            gradients, (losses, outputs) = grad(mean_query, argnums=wanted, has_aux=True)(parameters.detach(), lr)
        gradient = plan.only_meta_learned(gradients[0])
        return MetaGradient(losses, gradient, gradients[1] if inner_lr.learned else None, outputs)

    def predict(self, plan: Plan, fast: Tensor, x: Tensor) -> Tensor:
        with _transforming(plan):
            return _over_tasks(self._task(plan).forward)(fast.detach(), x)

    def hvp(self, plan: Plan, fast: Tensor, support: Samples, vectors: Tensor) -> Tensor:
        task = self._task(plan)

        def product(theta: Tensor, vector: Tensor, data: tuple[Tensor, ...]) -> Tensor:
            gradient = grad(lambda theta: task.loss(theta, data)[0])
            return jvp(gradient, (theta,), (vector,))[1]

        with _transforming(plan):
            return _over_tasks(product)(fast.detach(), vectors.detach(), _data(support))

    def _task(self, plan: Plan) -> _Task:
        if plan not in self._skeletons:
            # vmap forbids updates of running statistics, which in training mode have no part in the output
            self._skeletons[plan] = without_statistics(plan.module, updates_statistics)
        return _Task(plan, self._skeletons[plan])


class _Task:
    """The computations of one task, for vmap to batch."""

    def __init__(self, plan: Plan, skeleton: nn.Module) -> None:
        self.plan = plan
        self.skeleton = skeleton
        kept = {name for name, _ in skeleton.named_buffers()}
        self.buffers = {name: buffer for name, buffer in plan.module.named_buffers() if name in kept}

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        return functional_call(self.skeleton, (self.plan.unflatten(theta), self.buffers), (x,))

    def loss(self, theta: Tensor, data: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The loss and the outputs at theta [P] of data = (x [N, ...], y [N, ...][, weights [N]])."""
        x, y, *weights = data
        outputs = self.forward(theta, x)
        return self.plan.loss_fn(outputs, y, weights[0] if weights else None), outputs

    def adapt(
        self, theta: Tensor, lr: Tensor, data: tuple[Tensor, ...], steps: int, through_steps: bool
    ) -> tuple[Tensor, Tensor]:
        """θ ← θ − lr ∘ ∇L(θ), `steps` times; gives θ [P] and the losses [steps], each before its step."""
        losses = [theta.new_empty(0)]
        for _ in range(steps):
            gradient, (loss, _) = grad_and_value(self.loss, has_aux=True)(theta, data)
            theta = theta - lr * (gradient if through_steps else gradient.detach())
            losses.append(loss.reshape(1))
        return theta, torch.cat(losses)


@contextmanager
def _transforming(plan: Plan) -> Iterator[None]:
    """Where torch.func differentiates correctly, whatever the caller has done to autograd."""
    without_norms = plan.layers is not None and not plan.has_batch_norm
    with autograd(False), nullcontext() if without_norms else ExactNorms():
        yield


def _over_tasks(function: Callable[..., Any]) -> Callable[..., Any]:
    return vmap(function, randomness="different")


def _data(samples: Samples) -> tuple[Tensor, ...]:
    """(x, y) or (x, y, weights), where padding repeats a real sample: zero times anything finite is zero."""
    if samples.weights is None:
        return samples.x, samples.y
    real = samples.weights > 0  # [T, N]
    first = real.int().argmax(1)  # [T]
    return _filled(samples.x, real, first), _filled(samples.y, real, first), samples.weights


def _filled(tensor: Tensor, real: Tensor, first: Tensor) -> Tensor:
    tasks = torch.arange(len(tensor), device=tensor.device)
    filler = tensor[tasks, first].unsqueeze(1)  # [T, 1, ...]
    return torch.where(real.reshape(real.shape + (1,) * (tensor.dim() - 2)), tensor, filler)
