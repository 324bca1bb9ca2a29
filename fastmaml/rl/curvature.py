"""The curvature of the adapted policies as a product, and the conjugate gradient that inverts it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmaml.engines.base import Linearised
from fastmaml.rl.adaptation import Adaptation


class Curvature:
    """v ↦ mean over tasks of Jᵀ F J v, and damping · v: the Hessian in θ of the mean KL divergence, exactly.

    J is the derivative of a task's inner steps and F the Fisher matrix of its adapted policy. The divergence from the
    policy that acted has no gradient in the adapted parameters, so that no third derivative of the inner steps enters:
    2 K Hessian-vector products and one Fisher product a call, and no finite differences.

    Args:
        adaptation: the inner steps at θ. divergence: KL(acted ‖ ·) linearised at the adapted parameters.
        damping: added to the diagonal.
    """

    def __init__(self, adaptation: Adaptation, divergence: Linearised, damping: float) -> None:
        self.adaptation, self.divergence, self.damping = adaptation, divergence, damping

    def __call__(self, vector: Tensor) -> Tensor:
        product = self.divergence.product(self.adaptation.push_forward(vector))
        return self.adaptation.pull_back(product).mean(0) + self.damping * vector


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Solves A x = b for a positive definite A, given as `product` (Hestenes and Stiefel 1952).

    Args:
        iterations: the most products. tolerance: of |A x − b|², where it ends early.
    Returns:
        x, and A x as it follows from the residual, without a further product.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    square = b @ b
    for _ in range(iterations):
        if square <= tolerance:
            break
        image = product(direction)
        step = square / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        former, square = square, residual @ residual
        direction = residual + square / former * direction
    return x, b - residual
