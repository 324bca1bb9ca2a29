"""torch.func: grad of the mean over vmap of an inner loop of grad."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value, vmap

from bench.problem import Problem
from bench.rivals import LOSSES, Step

Parameters = dict[str, Tensor]


def meta_gradient(problem: Problem) -> Callable[..., tuple[Parameters, Tensor]]:
    """f(parameters, support_x, support_y, query_x, query_y) -> (gradients, mean query loss)."""
    loss_of, lr = LOSSES[problem.loss], problem.lr

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(functional_call(problem.network, parameters, (x,)), y)

    def query_loss(parameters: Parameters, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        for _ in range(problem.steps):
            gradients = grad(loss)(parameters, sx, sy)
            parameters = {name: value - lr * gradients[name] for name, value in parameters.items()}
        return loss(parameters, qx, qy)

    def mean_query_loss(parameters: Parameters, *batch: Tensor) -> Tensor:
        return vmap(query_loss, in_dims=(None, 0, 0, 0, 0))(parameters, *batch).mean()

    return grad_and_value(mean_query_loss)


def prepare(problem: Problem) -> Step:
    return as_step(meta_gradient(problem), problem)


def as_step(function: Callable[..., tuple[Parameters, Tensor]], problem: Problem) -> Step:
    parameters = {name: value.detach() for name, value in problem.network.named_parameters()}
    support, query = problem.batch.support, problem.batch.query

    @torch.no_grad()
    def step() -> tuple[Tensor, list[Tensor]]:
        gradients, loss = function(parameters, support.x, support.y, query.x, query.y)
        return loss, list(gradients.values())

    return step
