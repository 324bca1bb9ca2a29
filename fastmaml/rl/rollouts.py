"""Episodes of all tasks, and the advantages of their actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastmaml.batch import Samples
from fastmaml.rl.environments import BatchedEnvironment

if TYPE_CHECKING:
    from fastmaml.rl.policies import Policy

_RIDGE = 1e-5
_LARGEST_OBSERVATION = 10.0


@dataclass(frozen=True, eq=False)
class Episodes:
    """T tasks × E episodes × H steps; `real` is False after an episode's end.

    Args:
        observations: [T, E, H, O], zero after the end. actions: [T, E, H, A], or [T, E, H] where discrete.
        outputs: of the policy that acted [T, E, H, D]. rewards: [T, E, H], zero after the end.
        real: [T, E, H], bool.
    """

    observations: Tensor
    actions: Tensor
    outputs: Tensor
    rewards: Tensor
    real: Tensor

    @property
    def returns(self) -> Tensor:
        """Undiscounted, the mean over episodes [T]."""
        return self.rewards.sum(2).mean(1)

    @property
    def steps(self) -> int:
        return int(self.real.sum())


@torch.no_grad()
def sample(
    environment: BatchedEnvironment,
    policy: type[Policy],
    act: Callable[[Tensor], Tensor],
    tasks: np.ndarray,
    episodes: int,
    generator: np.random.Generator,
) -> Episodes:
    """Runs `episodes` episodes of each task, all at once.

    Args:
        act: outputs [T, E, D] of the tasks' own policies on observations [T, E, O], in one call for all of them.
    Raises:
        ValueError: for a reward, an observation or an output that is not finite, naming the task and the step.
    """
    observations = environment.reset(tasks, episodes, generator)
    alive = np.ones(observations.shape[:2], bool)
    _check_finite(observations, alive, "environment: the first observation", _END_IT)
    columns: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
    for step in range(environment.horizon):
        seen = torch.tensor(observations, dtype=torch.float32)
        outputs = act(seen).cpu()
        _check_finite(outputs.numpy(), alive, f"policy: at step {step} the output", _LESS_STEP)
        actions = policy.sample(outputs, generator)
        observations, rewards, ended = environment.step(actions.numpy())
        _check_finite(rewards[..., None], alive, f"environment: at step {step} the reward", _END_IT)
        _check_finite(observations, alive, f"environment: at step {step} the observation", _END_IT)
        kept = torch.from_numpy(np.where(alive, rewards, 0.0)).float()
        columns.append((seen, actions, outputs, kept, torch.from_numpy(alive.copy())))
        alive &= ~ended
        if not alive.any():
            break
        if not alive.all():
            observations = np.where(alive[..., None], observations, 0.0)
    return Episodes(*(torch.stack(column, 2) for column in zip(*columns, strict=True)))


_END_IT = "end an episode before its numbers overflow"
_LESS_STEP = "the policy has diverged: lower the inner lr or the outer step"


def _check_finite(values: np.ndarray, alive: np.ndarray, what: str, remedy: str) -> None:
    """Raises ValueError unless the values [T, E, ...] of the episodes that go on are finite."""
    bad = alive & ~np.isfinite(values).all(-1)
    if bad.any():
        task, episode = np.argwhere(bad)[0].tolist()
        raise ValueError(
            f"{what} of task {task}, episode {episode} is {values[task, episode].tolist()}; allowed are finite "
            f"numbers: {remedy}"
        )


def advantages(episodes: Episodes, discount: float = 0.99, gae: float = 1.0) -> Tensor:
    """Advantages [T, E, H], by a linear feature baseline fitted to each task; mean 0 and variance 1 in each task.

    Features are the observation o, o², and t/100 to the powers 0 … 3 (Duan et al. 2016, "Benchmarking deep
    reinforcement learning"). `gae` is λ of generalised advantage estimation (Schulman et al. 2016).
    """
    real = episodes.real.double()
    values = _baseline(episodes, _discounted(episodes.rewards.double(), discount))
    following = torch.cat([values[:, :, 1:], torch.zeros_like(values[:, :, :1])], 2)
    surprises = (episodes.rewards.double() + discount * following - values) * real
    raw = _discounted(surprises, discount * gae)
    count = real.sum((1, 2), keepdim=True)
    centred = (raw - (raw * real).sum((1, 2), keepdim=True) / count) * real
    deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    return (centred / (deviation + 1e-8)).float()


def _discounted(rewards: Tensor, discount: float) -> Tensor:
    """Sums of all later rewards [T, E, H], each discounted by its distance."""
    sums = torch.empty_like(rewards)
    later = torch.zeros_like(rewards[:, :, 0])
    for step in range(rewards.shape[2] - 1, -1, -1):
        later = rewards[:, :, step] + discount * later
        sums[:, :, step] = later
    return sums


def _baseline(episodes: Episodes, returns: Tensor) -> Tensor:
    """The least-squares fit of returns [T, E, H] on features, of each task by itself; 0 after the end."""
    o = episodes.observations.double().clamp(-_LARGEST_OBSERVATION, _LARGEST_OBSERVATION)
    t = (torch.arange(o.shape[2], dtype=o.dtype) / 100)[:, None].expand(*o.shape[:3], 1)
    real = episodes.real.unsqueeze(-1).double()
    features = (torch.cat([o, o.square(), t, t.square(), t**3, torch.ones_like(t)], -1) * real).flatten(1, 2)
    gram = features.mT @ features
    gram = gram + _RIDGE * torch.eye(gram.shape[-1], dtype=gram.dtype)
    moments = features.mT @ (returns * episodes.real).flatten(1)[..., None]
    weights = torch.linalg.lstsq(gram, moments, driver="gelsd").solution
    return (features @ weights).reshape(returns.shape)


def as_samples(policy: type[Policy], episodes: Episodes, scale: Tensor) -> Samples:
    """The steps as samples [T, E·H] of the policy's loss, each scaled by `scale` [T, E, H]; padding weighs 0."""
    targets = policy.reinforce_targets(episodes.outputs, episodes.actions, scale)
    return Samples(episodes.observations.flatten(1, 2), targets.flatten(1, 2), _weights(episodes))


def kl_samples(policy: type[Policy], episodes: Episodes) -> Samples:
    """The steps as samples whose loss is the KL divergence from the policies that acted."""
    targets = policy.kl_targets(episodes.outputs)
    return Samples(episodes.observations.flatten(1, 2), targets.flatten(1, 2), _weights(episodes))


def _weights(episodes: Episodes) -> Tensor | None:
    return None if bool(episodes.real.all()) else episodes.real.flatten(1).to(episodes.rewards)
