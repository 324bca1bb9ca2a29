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
