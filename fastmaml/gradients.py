"""Gradient rules: how the meta-gradient is taken through the inner steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class GradientRule:
    """Base of the gradient rules; an engine refuses a rule that it does not know, by `name`."""

    name: ClassVar[str] = "abstract"
    #: whether the meta-gradient passes through the inner gradients (Hessians of the support loss)
    through_steps: ClassVar[bool] = True


@dataclass(frozen=True)
class SecondOrder(GradientRule):
    """The exact meta-gradient, through all inner steps.

    With inner step size A and Hessian H_k of the support loss at θ_k:
    λ_K = ∇L_query(θ_K), λ_k = λ_{k+1} − H_k (A∘λ_{k+1}), meta-gradient λ_0.
    Prefer it wherever it is affordable: K steps cost about three times the first-order rule.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning", 2017, section 2.2 (arXiv 1703.03400).
    """

    name: ClassVar[str] = "second_order"
    through_steps: ClassVar[bool] = True


@dataclass(frozen=True)
class FirstOrder(GradientRule):
    """FOMAML: the gradient of the query loss at the adapted parameters, applied to the initialisation as is.

    Prefer it when many inner steps make the exact gradient too dear; it is biased, the more so the larger the
    inner step size and the number of steps. A learned inner lr still gets its gradient, with H_k taken as zero.

    Source: Finn, Abbeel, Levine, 2017, section 5.2; Nichol, Achiam, Schulman, 2018 (arXiv 1803.02999), section 4.
    """

    name: ClassVar[str] = "first_order"
    through_steps: ClassVar[bool] = False
