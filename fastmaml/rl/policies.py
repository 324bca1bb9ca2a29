"""Policies as plain modules, and the losses by which they learn.

A policy's outputs are the parameters of its action distribution: mean and log_std [..., 2A] of a Gaussian, logits
[..., A] of a categorical one. Both losses (`fastmaml.losses.gaussian`, `.categorical`) run in every engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fastmaml.models import Append


class Policy(nn.Module, ABC):
    """A network whose outputs are the parameters of a distribution of actions."""

    loss: ClassVar[str]
    actions: int

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, observations: Tensor) -> Tensor:
        outputs: Tensor = self.layers(observations)
        return outputs

    @staticmethod
    @abstractmethod
    def sample(outputs: Tensor, generator: np.random.Generator) -> Tensor:
        """Actions of outputs [..., D]."""

    @staticmethod
    @abstractmethod
    def log_prob(outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-likelihoods [...] of actions."""

    @staticmethod
    @abstractmethod
    def kl(old: Tensor, new: Tensor) -> Tensor:
        """KL(old ‖ new) [...]."""

    @staticmethod
    @abstractmethod
    def reinforce_targets(outputs: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
        """Targets whose loss is −advantage · log-likelihood, a sample."""

    @staticmethod
    @abstractmethod
    def kl_targets(outputs: Tensor) -> Tensor:
        """Targets whose loss is KL(outputs ‖ ·) but for a constant, so that its Hessian there is the Fisher matrix."""


class GaussianPolicy(Policy):
    """MLP to the mean, and a log standard deviation that is the same in every state (Finn et al. 2017, A.2).

    Args:
        observations, actions: numbers in each.
        hidden: widths of the hidden layers; the paper has 100-100.
        activation: after each of them; the paper has ReLU.
        log_std: where it starts.
        generator: draws the weights (Glorot's uniform; biases zero); torch's global one by default.
    """

    loss = "gaussian"

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (100, 100),
        activation: type[nn.Module] = nn.ReLU,
        log_std: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        layers = _mlp((observations, *hidden, actions), activation, generator)
        layers.add_module("log_std", Append(torch.full((actions,), log_std)))
        super().__init__(layers)
        self.actions = actions

    @staticmethod
    def sample(outputs: Tensor, generator: np.random.Generator) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        noise = torch.from_numpy(generator.standard_normal(mean.shape)).to(mean)
        return mean + log_std.exp() * noise

    @staticmethod
    def log_prob(outputs: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(actions).sum(-1)

    @staticmethod
    def kl(old: Tensor, new: Tensor) -> Tensor:
        (mean_0, log_0), (mean_1, log_1) = old.chunk(2, -1), new.chunk(2, -1)
        moved = ((2 * log_0).exp() + (mean_0 - mean_1).square()) * (-2 * log_1).exp()
        return (log_1 - log_0 + 0.5 * (moved - 1)).sum(-1)

    @staticmethod
    def reinforce_targets(outputs: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
        return torch.cat([actions, torch.zeros_like(actions), advantages.unsqueeze(-1)], -1)

    @staticmethod
    def kl_targets(outputs: Tensor) -> Tensor:
        mean, log_std = outputs.chunk(2, -1)
        return torch.cat([mean, (2 * log_std).exp(), torch.ones_like(mean[..., :1])], -1)


class CategoricalPolicy(Policy):
    """MLP to the logits of a choice among `actions`; arguments as of `GaussianPolicy`."""

    loss = "categorical"

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: Sequence[int] = (100, 100),
        activation: type[nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(_mlp((observations, *hidden, actions), activation, generator))
        self.actions = actions

    @staticmethod
    def sample(outputs: Tensor, generator: np.random.Generator) -> Tensor:
        draws = torch.from_numpy(generator.random(outputs.shape[:-1])).to(outputs).unsqueeze(-1)
        return (outputs.softmax(-1).cumsum(-1) < draws).sum(-1).clamp_max(outputs.shape[-1] - 1)

    @staticmethod
    def log_prob(outputs: Tensor, actions: Tensor) -> Tensor:
        return outputs.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def kl(old: Tensor, new: Tensor) -> Tensor:
        log_old = old.log_softmax(-1)
        return (log_old.exp() * (log_old - new.log_softmax(-1))).sum(-1)

    @staticmethod
    def reinforce_targets(outputs: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(actions, outputs.shape[-1]).to(outputs)
        return one_hot * advantages.unsqueeze(-1)

    @staticmethod
    def kl_targets(outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)


def _mlp(sizes: Sequence[int], activation: type[nn.Module], generator: torch.Generator | None) -> nn.Sequential:
    layers = nn.Sequential()
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        nn.init.xavier_uniform_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers.add_module(f"linear{number}", linear)
        if number < len(sizes) - 1:
            layers.add_module(f"activation{number}", activation())
    return layers
