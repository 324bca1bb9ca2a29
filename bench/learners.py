"""Training loops that are raced against the clock in bench.curves: the same recipe, tasks and optimizer for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.rivals import LOSSES
from fastmaml.batch import TaskBatch
from fastmaml.maml import MAML
from fastmaml.recipes import Recipe


@dataclass(frozen=True)
class Learner:
    """A network in training.

    Args:
        step: takes one meta-batch, leaves the meta-gradient in the network's parameters.
        at_test: the same network as it adapts at test.
    """

    step: Callable[[TaskBatch], None]
    at_test: MAML


def fastmaml(recipe: Recipe) -> Learner:
    """meta_loss and backward; the inner steps leave alone what the recipe says."""
    maml = recipe.maml()

    def step(batch: TaskBatch) -> None:
        maml.meta_loss(batch).backward()

    return Learner(step, recipe.at_test(maml))


def learn2learn(recipe: Recipe) -> Learner:
    """clone, adapt and backward for each task, as learn2learn's examples do; its MAML adapts every parameter."""
    from bench.rivals.learn2learn import import_maml

    network, loss_of = recipe.model(), LOSSES[recipe.loss]
    maml = import_maml()(network, lr=recipe.inner_lr, first_order=recipe.rule == "first-order", allow_nograd=True)

    def add_gradient(x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor) -> None:
        learner = maml.clone()
        for _ in range(recipe.train_steps):
            learner.adapt(loss_of(learner(x), y))
        loss_of(learner(query_x), query_y).backward()

    def step(batch: TaskBatch) -> None:
        for task in zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True):
            add_gradient(*task)
        for parameter in learned(network):
            assert parameter.grad is not None
            parameter.grad.mul_(1.0 / batch.num_tasks)

    return Learner(step, MAML(network, lr=recipe.test_lr, steps=recipe.train_steps, loss=recipe.loss))


LEARNERS: Mapping[str, Callable[[Recipe], Learner]] = {"fastmaml": fastmaml, "learn2learn": learn2learn}


def learned(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


class Race:
    """A learner, its optimizer and its stream of tasks; `seconds` of training and `iterations` so far."""

    def __init__(self, name: str, recipe: Recipe) -> None:
        self.name, self.recipe, self.learner = name, recipe, LEARNERS[name](recipe)
        self.parameters = learned(self.learner.at_test.model)
        self.optimizer = torch.optim.Adam(self.parameters, lr=recipe.meta_lr, fused=True)
        self.tasks, self.generator = recipe.train_source(), torch.Generator().manual_seed(recipe.seed)
        self.seconds, self.iterations = 0.0, 0

    def iterate(self) -> None:
        """One meta-iteration."""
        batch = self.tasks.sample(self.recipe.meta_batch, self.generator)
        self.optimizer.zero_grad()
        self.learner.step(batch)
        if self.recipe.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self.parameters, self.recipe.clip_value)
        self.optimizer.step()
        self.iterations += 1
