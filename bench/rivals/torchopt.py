"""TorchOpt: MetaSGD, with the network's state put back after each task."""

from __future__ import annotations

from copy import deepcopy

import torch
import torchopt
from torch import Tensor

from bench.problem import Problem
from bench.rivals import LOSSES, Step


def prepare(problem: Problem) -> Step:
    network, batch, loss_of = deepcopy(problem.network), problem.batch, LOSSES[problem.loss]
    initial = list(network.parameters())
    inner = torchopt.MetaSGD(network, lr=problem.lr)

    def query_loss(task: int) -> Tensor:
        states = [(part, torchopt.extract_state_dict(part, by="reference")) for part in (network, inner)]
        for _ in range(problem.steps):
            inner.step(loss_of(network(batch.support.x[task]), batch.support.y[task]))
        loss = loss_of(network(batch.query.x[task]), batch.query.y[task])
        for part, state in states:
            torchopt.recover_state_dict(part, state)
        return loss

    def step() -> tuple[Tensor, list[Tensor | None]]:
        for parameter in initial:
            parameter.grad = None
        loss = torch.stack([query_loss(task) for task in range(batch.num_tasks)]).mean()
        loss.backward()
        return loss.detach(), [parameter.grad for parameter in initial]

    return step
