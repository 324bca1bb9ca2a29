"""torch.func: grad of the mean over vmap of an inner loop of grad.

Batch norm is written out: under vmap, torch's own takes its statistics for constants in the second derivative (seen
in torch 2.13), and the meta-gradient would be wrong by 2e-3.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from bench.problem import Problem
from bench.rivals import LOSSES, Step

Parameters = dict[str, Tensor]


def meta_gradient(problem: Problem) -> Callable[..., tuple[Parameters, Tensor]]:
    """f(parameters, support_x, support_y, query_x, query_y) -> (gradients, mean query loss)."""
    network, loss_of, lr = with_norms_written_out(problem.network), LOSSES[problem.loss], problem.lr

    def loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
        return loss_of(functional_call(network, parameters, (x,)), y)

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


class WrittenOutNorm(nn.Module):
    """What BatchNorm1d and BatchNorm2d do in training mode, with the same parameters."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=(0, *range(2, x.dim())), unbiased=False, keepdim=True)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean) * torch.rsqrt(var + self.eps) * self.weight.reshape(shape) + self.bias.reshape(shape)


def with_norms_written_out(network: nn.Module) -> nn.Module:
    """A copy of a network whose direct children are layers."""
    network = deepcopy(network)
    for name, child in list(network.named_children()):
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(network, name, WrittenOutNorm(child))
    return network
