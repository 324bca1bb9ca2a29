"""The outer update: TRPO with the exact curvature of the adapted policies, plain policy gradient, or PPO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine
from fastmaml.gradients import SecondOrder
from fastmaml.plan import InnerLr, Plan
from fastmaml.rl.policies import Policy
from fastmaml.rl.rollouts import Episodes, as_samples, kl_samples


@dataclass(frozen=True)
class Problem:
    """The surrogate objective of one meta-batch, as a function of the shared parameters θ [P].

    Args:
        support: what the inner step is taken on. episodes: those of the adapted policies, with `advantages` [T, E, H].
        theta: θ_old; fast: θ'_old [T, P].
    """

    engine: Engine
    plan: Plan
    policy: type[Policy]
    inner_lr: InnerLr
    support: Samples
    episodes: Episodes
    advantages: Tensor
    theta: Tensor
    fast: Tensor

    def gradient(self, theta: Tensor, scale: Tensor) -> Tensor:
        """Of the mean over tasks of −scale · log-likelihood after the inner step, with respect to θ: [P]."""
        batch = TaskBatch(self.support, as_samples(self.policy, self.episodes, scale))
        return self.engine.meta_gradient(self.plan, theta, self.inner_lr, batch, 1, SecondOrder()).gradient

    def outputs(self, theta: Tensor) -> Tensor:
        """What the policies adapted from θ give on the episodes' observations [T, E, H, D]."""
        fast, _ = self.engine.adapt(self.plan, theta, self.inner_lr, self.support, 1)
        outputs = self.engine.predict(self.plan, fast, self.episodes.observations.flatten(1, 2))
        return outputs.reshape(self.episodes.outputs.shape)

    def ratios(self, outputs: Tensor) -> Tensor:
        """Likelihoods of the actions over those under θ'_old [T, E, H]."""
        actions, old = self.episodes.actions, self.episodes.outputs
        return (self.policy.log_prob(outputs, actions) - self.policy.log_prob(old, actions)).exp()

    def surrogate(self, outputs: Tensor) -> float:
        """−E[ratio · advantage], the mean over tasks of the mean over steps."""
        return self._mean(-self.ratios(outputs) * self.advantages)

    def kl(self, outputs: Tensor) -> float:
        """KL(old ‖ new) of the adapted policies, the mean over tasks of the mean over steps."""
        return self._mean(self.policy.kl(self.episodes.outputs, outputs))

    def _mean(self, values: Tensor) -> float:
        real = self.episodes.real
        of_task = torch.where(real, values, 0).sum((1, 2)) / real.sum((1, 2))
        return of_task.mean().item()


class Curvature:
    """v ↦ mean over tasks of JᵀFJ·v + damping · v: the Hessian of the KL divergence in θ at θ_old, exactly.

    J = I − αH is the derivative of the inner step, H the Hessian of the support loss at θ, and F the Fisher matrix of
    the adapted policy. There the gradient of the KL with respect to the adapted parameters is zero, so that no third
    derivative of the inner step enters. Three batched Hessian-vector products a call; no finite differences.
    """

    def __init__(self, problem: Problem, damping: float = 1e-5) -> None:
        self.problem, self.damping = problem, damping
        self.kl = kl_samples(problem.policy, problem.episodes)
        self.starts = problem.theta.expand_as(problem.fast).contiguous()

    def __call__(self, vector: Tensor) -> Tensor:
        p, lr = self.problem, self.problem.inner_lr.values
        v = vector.expand_as(p.fast)
        v = v - lr * p.engine.hvp(p.plan, self.starts, p.support, v)  # J v
        v = p.engine.hvp(p.plan, p.fast, self.kl, v)  # F J v
        v = v - p.engine.hvp(p.plan, self.starts, p.support, lr * v)  # Jᵀ F J v
        return v.mean(0) + self.damping * vector


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float) -> Tensor:
    """x with product(x) ≈ b, after at most `iterations` products (Hestenes and Stiefel 1952)."""
    x, residual = torch.zeros_like(b), b.clone()
    direction, square = b.clone(), b @ b
    for _ in range(iterations):
        if square <= tolerance:
            break
        image = product(direction)
        step = square / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        former, square = square, residual @ residual
        direction = residual + square / former * direction
    return x


@dataclass(frozen=True)
class Update:
    """What an outer update did: new parameters [P], surrogate before and after, KL, and whether it was accepted."""

    theta: Tensor
    before: float
    after: float
    kl: float
    accepted: bool


@dataclass(frozen=True)
class TRPO:
    """Trust region policy optimisation of the initialisation (Schulman et al. 2015; Finn et al. 2017, section 4.2).

    The natural gradient by conjugate gradient on the exact curvature, then a backtracking line search on the
    surrogate and the KL divergence.

    Args:
        kl: the largest mean KL divergence of the adapted policies.
        iterations: of conjugate gradient. damping: added to the curvature.
        backtracks: steps tried, each `shrink` times the one before.
    """

    kl: float = 0.01
    iterations: int = 10
    damping: float = 1e-5
    backtracks: int = 15
    shrink: float = 0.8

    def update(self, problem: Problem) -> Update:
        gradient = problem.gradient(problem.theta, problem.advantages)
        before = problem.surrogate(problem.episodes.outputs)
        curvature = Curvature(problem, self.damping)
        direction = conjugate_gradient(curvature, gradient, self.iterations, 1e-10)
        slope = direction @ curvature(direction)
        if not (torch.isfinite(slope) and slope > 0):
            return Update(problem.theta, before, before, 0.0, False)
        full = (2 * self.kl / slope).sqrt() * direction
        for attempt in range(self.backtracks):
            theta = problem.theta - self.shrink**attempt * full
            outputs = problem.outputs(theta)
            after, kl = problem.surrogate(outputs), problem.kl(outputs)
            if after < before and kl <= self.kl:
                return Update(theta, before, after, kl, True)
        return Update(problem.theta, before, before, 0.0, False)


@dataclass(frozen=True)
class PolicyGradient:
    """One plain gradient step on the surrogate; a baseline for TRPO. `lr`: its size."""

    lr: float = 0.05

    def update(self, problem: Problem) -> Update:
        theta = problem.theta - self.lr * problem.gradient(problem.theta, problem.advantages)
        return _judged(problem, theta)


@dataclass(frozen=True)
class PPO:
    """Gradient steps on the clipped surrogate (Schulman et al. 2017), the inner step taken anew at each.

    Args:
        lr: size of the steps. epochs: how many. clip: ratios beyond 1 ± clip gain nothing.
    """

    lr: float = 0.05
    epochs: int = 5
    clip: float = 0.2

    def update(self, problem: Problem) -> Update:
        theta = problem.theta
        for _ in range(self.epochs):
            ratios = problem.ratios(problem.outputs(theta))
            gains = torch.where(problem.advantages > 0, ratios <= 1 + self.clip, ratios >= 1 - self.clip)
            # the derivative of a ratio is the ratio times that of the log-likelihood
            theta = theta - self.lr * problem.gradient(theta, problem.advantages * ratios * gains)
        return _judged(problem, theta)


def _judged(problem: Problem, theta: Tensor) -> Update:
    outputs = problem.outputs(theta)
    before = problem.surrogate(problem.episodes.outputs)
    return Update(theta, before, problem.surrogate(outputs), problem.kl(outputs), True)


Outer = TRPO | PolicyGradient | PPO
