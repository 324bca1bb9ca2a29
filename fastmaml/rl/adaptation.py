"""The inner steps of all tasks at one θ, and their derivative J = dθ_K/dθ: forward, J v, and back, Jᵀ u."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastmaml.batch import Samples
from fastmaml.engines.base import Engine, Linearised
from fastmaml.plan import InnerLr, Plan


@dataclass(frozen=True, eq=False)
class Adaptation:
    """K inner steps θ_{k+1} = θ_k − α ∘ ∇L_k(θ_k), each on samples of its own, linearised where it starts.

    Args:
        fast: θ_K [T, P]. lr: α [P]. steps: L_k linearised at θ_k, for k = 0 … K−1.
    """

    fast: Tensor
    lr: Tensor
    steps: tuple[Linearised, ...]

    @classmethod
    def of(
        cls, engine: Engine, plan: Plan, theta: Tensor, inner_lr: InnerLr, supports: Sequence[Samples]
    ) -> Adaptation:
        """From θ, [P] for all tasks or [T, P], on the samples of each step."""
        fast, steps = theta, []
        for support in supports:
            step = engine.linearise(plan, fast, support)
            assert step.gradient is not None
            fast = fast - inner_lr.values * step.gradient
            steps.append(step)
        return cls(fast, inner_lr.values, tuple(steps))

    def push_forward(self, vectors: Tensor) -> Tensor:
        """J v = (I − α H_{K−1}) … (I − α H_0) v, of v [P] or [T, P]: [T, P]; without steps v itself."""
        for step in self.steps:
            vectors = vectors - self.lr * step.product(vectors)
        return vectors

    def pull_back(self, adjoints: Tensor) -> Tensor:
        """Jᵀ u = (I − H_0 α) … (I − H_{K−1} α) u, of u [T, P]: [T, P]."""
        for step in reversed(self.steps):
            adjoints = adjoints - step.product(self.lr * adjoints)
        return adjoints
