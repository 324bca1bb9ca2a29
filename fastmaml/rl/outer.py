"""The outer update: TRPO with the exact curvature of the adapted policies, plain policy gradient, or PPO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastmaml.batch import Samples
from fastmaml.engines.base import Engine
from fastmaml.plan import InnerLr, Plan
from fastmaml.rl.adaptation import Adaptation
from fastmaml.rl.curvature import Curvature, conjugate_gradient
from fastmaml.rl.policies import Policy
from fastmaml.rl.rollouts import Episodes, as_samples, kl_samples


@dataclass(frozen=True, eq=False)
class Problem:
    """The surrogate objective of one meta-batch, as a function of the shared parameters θ [P].

    Args:
        supports: what each inner step is taken on.
        episodes: those of the adapted policies, with `advantages` [T, E, H].
        theta: θ_old. adaptation: the inner steps from there.
    """

    engine: Engine
    plan: Plan
    policy: type[Policy]
    inner_lr: InnerLr
    supports: tuple[Samples, ...]
    episodes: Episodes
    advantages: Tensor
    theta: Tensor
    adaptation: Adaptation

    def adapt(self, theta: Tensor) -> Adaptation:
        """The inner steps from another θ, on the same samples."""
        return Adaptation.of(self.engine, self.plan, theta, self.inner_lr, self.supports)

    def gradient(self, adaptation: Adaptation, scale: Tensor) -> Tensor:
        """Of the mean over tasks of −scale · log-likelihood after the inner steps, with respect to θ: [P]."""
        fast = self._per_task(adaptation.fast)
        query = self.engine.linearise(self.plan, fast, as_samples(self.policy, self.episodes, scale))
        assert query.gradient is not None
        return adaptation.pull_back(query.gradient).mean(0)

    def curvature(self, damping: float) -> Curvature:
        """Of the KL divergence from the policies that acted, at θ_old."""
        divergence = kl_samples(self.policy, self.episodes)
        fast = self._per_task(self.adaptation.fast)
        linearised = self.engine.linearise(self.plan, fast, divergence, stationary=True)
        return Curvature(self.adaptation, linearised, damping)

    def outputs(self, adaptation: Adaptation) -> Tensor:
        """What the adapted policies give on the episodes' observations [T, E, H, D]."""
        fast = self._per_task(adaptation.fast)
        outputs = self.engine.predict(self.plan, fast, self.episodes.observations.flatten(1, 2))
        return outputs.reshape(self.episodes.outputs.shape)

    def _per_task(self, fast: Tensor) -> Tensor:
        """[T, P], also where no inner step has made them differ."""
        return fast.expand(len(self.advantages), -1).contiguous()

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


_CONVERGED = 1e-10


@dataclass(frozen=True, eq=False)
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
        gradient = problem.gradient(problem.adaptation, problem.advantages)
        curvature = problem.curvature(self.damping)
        direction, image = conjugate_gradient(curvature, gradient, self.iterations, _CONVERGED)
        slope = direction @ image
        if not torch.isfinite(slope):
            raise FloatingPointError(
                "the surrogate's gradient or its curvature is not finite; a lower inner lr or a larger log_std may help"
            )
        if slope <= 0:  # a gradient of zero
            return _unchanged(problem)
        return self._search(problem, (2 * self.kl / slope).sqrt() * direction)

    def _search(self, problem: Problem, full: Tensor) -> Update:
        """The first of ever smaller steps that lowers the surrogate and stays within the divergence allowed."""
        before = problem.surrogate(problem.episodes.outputs)
        for attempt in range(self.backtracks):
            theta = problem.theta - self.shrink**attempt * full
            outputs = problem.outputs(problem.adapt(theta))
            after, kl = problem.surrogate(outputs), problem.kl(outputs)
            if after < before and kl <= self.kl:
                return Update(theta, before, after, kl, True)
        return _unchanged(problem)


@dataclass(frozen=True)
class PolicyGradient:
    """One plain gradient step on the surrogate; a baseline for TRPO. `lr`: its size."""

    lr: float = 0.05

    def update(self, problem: Problem) -> Update:
        theta = problem.theta - self.lr * problem.gradient(problem.adaptation, problem.advantages)
        return _judged(problem, theta, problem.adapt(theta))


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
        theta, adaptation = problem.theta, problem.adaptation
        for _ in range(self.epochs):
            ratios = problem.ratios(problem.outputs(adaptation))
            gains = torch.where(problem.advantages > 0, ratios <= 1 + self.clip, ratios >= 1 - self.clip)
            # the derivative of a ratio is the ratio times that of the log-likelihood
            theta = theta - self.lr * problem.gradient(adaptation, problem.advantages * ratios * gains)
            adaptation = problem.adapt(theta)
        return _judged(problem, theta, adaptation)


def _unchanged(problem: Problem) -> Update:
    before = problem.surrogate(problem.episodes.outputs)
    return Update(problem.theta, before, before, 0.0, False)


def _judged(problem: Problem, theta: Tensor, adaptation: Adaptation) -> Update:
    outputs = problem.outputs(adaptation)
    before = problem.surrogate(problem.episodes.outputs)
    return Update(theta, before, problem.surrogate(outputs), problem.kl(outputs), True)


Outer = TRPO | PolicyGradient | PPO
