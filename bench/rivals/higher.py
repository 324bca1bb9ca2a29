"""higher: innerloop_ctx with a differentiable SGD for each task."""

from __future__ import annotations

from copy import deepcopy

import higher
import torch
from torch import Tensor

from bench.problem import Problem
from bench.rivals import LOSSES, Step


def prepare(problem: Problem) -> Step:
    network, batch, loss_of = deepcopy(problem.network), problem.batch, LOSSES[problem.loss]
    optimizer = torch.optim.SGD(network.parameters(), lr=problem.lr)

    def add_gradient(task: int) -> Tensor:
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (fast, inner):
            for _ in range(problem.steps):
                inner.step(loss_of(fast(batch.support.x[task]), batch.support.y[task]))
            loss = loss_of(fast(batch.query.x[task]), batch.query.y[task]) / batch.num_tasks
            loss.backward()
            return loss.detach()

    def step() -> tuple[Tensor, list[Tensor | None]]:
        network.zero_grad()
        loss = torch.stack([add_gradient(task) for task in range(batch.num_tasks)]).sum()
        return loss, [parameter.grad for parameter in network.parameters()]

    return step
