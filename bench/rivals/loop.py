"""The textbook: a loop over tasks, autograd through autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from bench.problem import Problem
from bench.rivals import LOSSES, Step


def prepare(problem: Problem) -> Step:
    network, batch = problem.network, problem.batch
    names = [name for name, _ in network.named_parameters()]
    initial = list(network.parameters())
    loss_of = LOSSES[problem.loss]

    def query_loss(task: int) -> Tensor:
        fast: list[Tensor] = [*initial]
        for _ in range(problem.steps):
            outputs = functional_call(network, dict(zip(names, fast, strict=True)), (batch.support.x[task],))
            gradients = torch.autograd.grad(loss_of(outputs, batch.support.y[task]), fast, create_graph=True)
            fast = [value - problem.lr * gradient for value, gradient in zip(fast, gradients, strict=True)]
        outputs = functional_call(network, dict(zip(names, fast, strict=True)), (batch.query.x[task],))
        return loss_of(outputs, batch.query.y[task])

    def step() -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = torch.stack([query_loss(task) for task in range(batch.num_tasks)]).mean()
        return loss.detach(), torch.autograd.grad(loss, initial)

    return step
