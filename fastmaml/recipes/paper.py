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

SINUSOID_STEP_SIZE: Mapping[str, float] = {"MAML": 0.01, "pretrained": 0.01}
"""Step sizes at test behind SINUSOID_MSE: α of section 5.1, and that of figure 2 at K=5."""

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

MINI_IMAGENET_TEST_CLASSES = frozenset([
    "n01930112", "n01981276", "n02099601", "n02110063", "n02110341", "n02116738", "n02129165", "n02219486",
    "n02443484", "n02871525", "n03127925", "n03146219", "n03272010", "n03544143", "n03775546", "n04146614",
    "n04149813", "n04418357", "n04522168", "n07613480",
])  # fmt: skip
"""WordNet's names of the test classes of Ravi and Larochelle 2017, whose split the paper takes."""

CIFAR_FS_TEST_CLASSES = frozenset([
    "baby", "bed", "bicycle", "chimpanzee", "fox", "leopard", "man", "pickup_truck", "plain", "poppy", "rocket",
    "rose", "snail", "sweet_pepper", "table", "telephone", "wardrobe", "whale", "woman", "worm",
])  # fmt: skip
"""The test classes of Bertinetto et al. 2019."""

IMAGES_OF_A_CLASS = 600
"""In MiniImagenet and in CIFAR-FS."""

MINI_IMAGENET_TEST_STEPS = 10
"""Inner steps at test behind MINI_IMAGENET (appendix A.1)."""

CIFAR_FS: Mapping[tuple[int, int], Accuracy] = {(5, 1): Accuracy(58.9, 1.9), (5, 5): Accuracy(71.5, 1.0)}
"""Accuracy of MAML with 32 filters on CIFAR-FS, by (ways, shots), as Bertinetto et al. 2019 report it."""

RETURNS: Mapping[str, Mapping[str, Mapping[int, float]]] = {
    "nav2d": {
        "MAML": {0: -40.4, 1: -11.7, 2: -3.3, 3: -3.2},
        "random": {0: -82.7, 1: -58.0, 2: -53.8, 3: -46.8},
        "oracle": {0: -2.3},
    },
    "cheetah-vel": {
        "MAML": {0: -129.5, 1: -78.6, 2: -66.6, 3: -60.8},
        "pretrained": {0: -158.0, 1: -135.4, 2: -128.5, 3: -133.6},
        "random": {0: -254.8, 1: -254.3, 2: -246.8, 3: -230.8},
        "oracle": {0: -54.5},
    },
    "cheetah-dir": {
        "MAML": {0: -50.7, 1: 293.2, 2: 313.5, 3: 315.7},
        "pretrained": {0: -43.0, 1: -24.8, 2: -12.9, 3: 19.6},
        "random": {0: -35.7, 1: 21.8, 2: 62.3, 3: 86.2},
        "oracle": {0: 442.7},
    },
    "ant-vel": {
        "MAML": {0: 30.6, 1: 96.7, 2: 100.1, 3: 101.4},
        "pretrained": {0: -1.8, 1: 6.1, 2: 8.5, 3: 9.5},
        "random": {0: -78.6, 1: -62.8, 2: -48.6, 3: -35.6},
        "oracle": {0: 107.9},
    },
    "ant-dir": {
        "MAML": {0: 8.7, 1: 499.2, 2: 500.7, 3: 499.1},
        "pretrained": {0: 3.2, 1: 1.3, 2: 6.5, 3: 6.9},
        "random": {0: 3.1, 1: 9.3, 2: 16.0, 3: 26.1},
        "oracle": {0: 524.8},
    },
}
"""Mean return by experiment, method and number of gradient steps (appendix, tables of section 5.3)."""
