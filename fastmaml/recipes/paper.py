"""What Finn, Abbeel, Levine 2017 (arXiv 1703.03400) report, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with the half-width of its 95% confidence interval, both in percent."""

    percent: float
    ci95: float


SINUSOID_MSE: Mapping[str, Mapping[int, float]] = {
    "MAML": {1: 0.67, 5: 0.38, 10: 0.35},
    "pretrained": {1: 2.41, 5: 2.23, 10: 2.19},
}
"""Mean squared error at K=5 by number of gradient steps (appendix, table of multi-task baselines)."""

SINUSOID_SHOTS = 5
"""Support points per task in SINUSOID_MSE."""

OMNIGLOT_MLP: Mapping[tuple[int, int], Accuracy] = {
    (5, 1): Accuracy(89.7, 1.1),
    (5, 5): Accuracy(97.5, 0.6),
}
"""Accuracy of "MAML, no conv" after the test's gradient steps, by (ways, shots) (table 1)."""

OMNIGLOT_TEST_STEPS = 3
"""Inner steps at test behind OMNIGLOT_MLP (appendix A.1)."""

OMNIGLOT_CONV: Mapping[tuple[int, int], Accuracy] = {
    (5, 1): Accuracy(98.7, 0.4),
    (5, 5): Accuracy(99.9, 0.1),
    (20, 1): Accuracy(95.8, 0.3),
    (20, 5): Accuracy(98.9, 0.2),
}
"""Accuracy of "MAML, conv" after the test's gradient steps, by (ways, shots) (table 1)."""

MINI_IMAGENET: Mapping[tuple[int, int], Accuracy] = {(5, 1): Accuracy(48.70, 1.84), (5, 5): Accuracy(63.11, 0.92)}
"""Accuracy of MAML on MiniImagenet, by (ways, shots) (table 1)."""

MINI_IMAGENET_TEST_STEPS = 10
"""Inner steps at test behind MINI_IMAGENET (appendix A.1)."""

CIFAR_FS: Mapping[tuple[int, int], Accuracy] = {(5, 1): Accuracy(58.9, 1.9), (5, 5): Accuracy(71.5, 1.0)}
"""Accuracy of MAML with 32 filters on CIFAR-FS, by (ways, shots), as Bertinetto et al. 2019 report it."""
