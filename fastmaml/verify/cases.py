"""The networks and shapes on which every engine is held against the float64 reference, as data."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

MAX_DEPTH, MAX_WIDTH, MAX_TASKS, MAX_SAMPLES, MAX_STEPS = 6, 300, 130, 40, 10
"""Upper ends of the grid: Linear layers, features, tasks, samples per set and task, inner steps."""


@dataclass(frozen=True)
class Case:
    """A network, a meta-batch's shape and a way to take the meta-gradient.

    widths: features of input, hidden layers and output; one Linear between two neighbours.
    norm: "none", "plain" (no parameters), "shift" (bias alone) or "affine" BatchNorm1d after each hidden Linear.
    regime: "usual"; "dead" (a third of the hidden units never fire); "dead layer" (one layer never fires);
    "saturated" (tanh deep in its flat parts).
    inner_lr: "uniform", or "element" for a learned step size per parameter, whose gradient is checked too.
    adapted: fnmatch patterns of the adapted parameters; None adapts all.
    """

    widths: tuple[int, ...]
    tasks: int = 4
    support: int = 5
    query: int = 5
    steps: int = 1
    activation: str = "relu"
    norm: str = "none"
    regime: str = "usual"
    loss: str = "mse"
    rule: str = "second"
    ragged: bool = False
    bias: bool = True
    inner_lr: str = "uniform"
    adapted: tuple[str, ...] | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Everything that distinguishes the case, short enough for a table and for a test's name."""
        flags = [
            "-".join(map(str, self.widths)),
            self.activation,
            "" if self.norm == "none" else f"bn:{self.norm}",
            "" if self.regime == "usual" else self.regime.replace(" ", ""),
            "xent" if self.loss == "cross_entropy" else "mse",
            f"T{self.tasks} N{self.support} M{self.query} K{self.steps}",
            "1st" if self.rule == "first" else "2nd",
            "ragged" if self.ragged else "",
            "" if self.bias else "nobias",
            "lr/element" if self.inner_lr == "element" else "",
            "partial" if self.adapted is not None else "",
        ]
        return " ".join(flag for flag in flags if flag)

    @property
    def work(self) -> int:
        """Multiply-adds of one forward pass over support and query, times the steps: what a run costs."""
        weights = sum(a * b for a, b in zip(self.widths, self.widths[1:], strict=False))
        return weights * self.tasks * (self.support * self.steps + self.query)


_SINUSOID = Case((1, 40, 40, 1), tasks=25, support=10, query=10)
_OMNIGLOT = Case((784, 256, 128, 64, 64, 5), norm="shift", loss="cross_entropy", adapted=("linear*",), tasks=4)

CORNERS: tuple[Case, ...] = (
    # The paper's networks.
    _SINUSOID,
    replace(_SINUSOID, steps=5),
    replace(_SINUSOID, steps=10),
    replace(_SINUSOID, rule="first"),
    replace(_SINUSOID, activation="tanh", steps=5),
    _OMNIGLOT,
    replace(_OMNIGLOT, steps=3, rule="first"),
    # The smallest and the largest of everything.
    Case((1, 1), tasks=1, support=1, query=1, seed=1),
    Case((1, 1, 1, 1, 1, 1, 1), tasks=1, support=1, query=1, steps=10, activation="tanh"),
    Case((300, 300), tasks=130, support=2, query=2),
    Case((1, 300, 1), tasks=130, support=40, query=40),
    Case((300, 300, 300, 2), tasks=2, support=40, query=40, steps=2),
    Case((8, 20, 20, 20, 20, 20, 3), tasks=130, support=3, query=4, activation="tanh"),
    Case((3, 16, 16, 2), tasks=25, support=8, query=8, steps=10),
    Case((2, 16, 2), tasks=130, support=1, query=1, steps=3, activation="tanh"),
    Case((5, 7, 3), tasks=17, support=40, query=1, steps=2),
    Case((5, 7, 3), tasks=33, support=1, query=40, steps=2),
    # One task more and one fewer than a vector register holds.
    *(Case((3, 9, 2), tasks=tasks, support=6, query=7, steps=2) for tasks in (7, 8, 9, 15, 16, 31, 32)),
    # Two samples and few samples under batch norm, where its gradient nearly cancels. (PyTorch refuses one.)
    *(
        Case((6, 12, 12, 3), tasks=9, support=n, query=n, norm=norm, loss="cross_entropy")
        for n in (2, 3, 5)
        for norm in ("plain", "shift", "affine")
    ),
    Case((3, 2, 1, 2), tasks=9, support=10, query=12, norm="affine", activation="tanh"),
    Case((6, 32, 32, 4), tasks=6, support=20, query=20, steps=5, norm="affine", activation="tanh"),
    Case((6, 12, 12, 12, 3), tasks=5, support=8, query=8, steps=10, norm="affine"),
    Case((6, 12, 3), tasks=5, support=8, query=8, norm="affine", bias=False, activation="tanh"),
    # Units that do not move.
    Case((4, 30, 30, 3), tasks=12, support=8, query=8, steps=3, regime="dead"),
    Case((4, 30, 30, 3), tasks=12, support=8, query=8, steps=3, regime="dead layer"),
    Case((4, 30, 30, 3), tasks=12, support=8, query=8, steps=2, regime="dead", norm="affine"),
    Case((4, 30, 30, 3), tasks=12, support=8, query=8, steps=3, regime="saturated", activation="tanh"),
    Case((4, 30, 30, 3), tasks=12, steps=2, regime="saturated", activation="tanh", loss="cross_entropy"),
    # Padding, and parts of a network that stay.
    Case((4, 20, 20, 3), tasks=21, support=9, query=7, steps=3, ragged=True),
    Case((4, 20, 20, 3), tasks=21, support=9, query=7, loss="cross_entropy", ragged=True),
    Case((4, 20, 20, 3), tasks=21, support=9, query=7, norm="affine", ragged=True, activation="tanh"),
    Case((4, 20, 20, 3), tasks=21, support=9, query=7, steps=5, adapted=("linear2*",)),
    Case((4, 20, 20, 3), tasks=21, support=9, query=7, steps=5, inner_lr="element"),
    Case((4, 20, 20, 3), tasks=21, rule="first", steps=3, inner_lr="element", loss="cross_entropy"),
    Case((4, 20, 20, 3), tasks=6, steps=2, norm="affine", inner_lr="element", activation="tanh"),
    Case((4, 20, 20, 3), tasks=6, steps=4, bias=False, activation="tanh"),
)


def sample(count: int, seed: int, max_work: int) -> tuple[Case, ...]:
    """`count` cases drawn over the whole grid, the same for the same seed; none costs more than `max_work`."""
    draw = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < count:
        case = replace(_draw(draw), seed=len(cases) + 1)
        if case.work <= max_work:
            cases.append(case)
    return tuple(cases)


def _draw(draw: random.Random) -> Case:
    activation = draw.choice(("relu", "tanh"))
    loss = draw.choice(("mse", "cross_entropy"))
    depth = draw.randint(1, MAX_DEPTH)
    norm = draw.choice(("none", "none", "plain", "shift", "affine"))
    # Fewer samples or units between batch norms make it ill-conditioned, and the check weak; CORNERS have them.
    fewest, narrowest = (1, 1) if norm == "none" else (8, 12)
    hidden = [max(narrowest, _log_uniform(draw, MAX_WIDTH)) for _ in range(depth - 1)]
    outputs = max(2 if loss == "cross_entropy" else 1, _log_uniform(draw, MAX_WIDTH))
    movable = activation == "tanh" or norm in ("shift", "affine")  # ReLUs need a bias to be kept off their kinks
    inputs = max(narrowest, _log_uniform(draw, MAX_WIDTH))
    return Case(
        (inputs, *hidden, outputs),
        tasks=_log_uniform(draw, MAX_TASKS),
        support=max(fewest, _log_uniform(draw, MAX_SAMPLES)),
        query=max(fewest, _log_uniform(draw, MAX_SAMPLES)),
        steps=_log_uniform(draw, MAX_STEPS),
        activation=activation,
        norm=norm,
        regime=draw.choice(("usual", "usual", _still(activation, norm))),
        loss=loss,
        rule=draw.choice(("second", "second", "first")),
        ragged=draw.random() < 0.25,
        bias=draw.random() < 0.9 or not movable,
        inner_lr=draw.choice(("uniform", "uniform", "uniform", "element")),
    )


def _still(activation: str, norm: str) -> str:
    """The regime in which units do not move; batch norm would undo saturation."""
    if activation == "relu":
        return "dead"
    return "saturated" if norm == "none" else "usual"


def _log_uniform(draw: random.Random, largest: int) -> int:
    return min(largest, int(math.exp(draw.uniform(0.0, math.log(largest + 1)))))


CASES: tuple[Case, ...] = CORNERS + sample(40, seed=2017, max_work=4_000_000)
"""What `fastmaml verify` runs, and what the tests of the engines are parametrised over."""


def full_cases() -> tuple[Case, ...]:
    """The grid of `fastmaml verify --full`: CASES and 300 more, heavier ones among them."""
    return CASES + sample(300, seed=1703, max_work=200_000_000)
