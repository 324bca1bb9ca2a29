"""Other ways of taking the same meta-gradient, each in a file of its own with one function:

    prepare(problem: Problem) -> Step

A Step is called without arguments and does what a training step does up to the gradients: it returns the mean query
loss and the gradient of each parameter in the order of network.parameters(), as tensors or arrays, computed when it
returns. prepare() raises Absent where the rival cannot be had.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from bench.problem import Problem

Step = Callable[[], tuple[Any, Sequence[Any]]]

LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": functional.mse_loss,
    "cross_entropy": functional.cross_entropy,
}

NAMES = ("loop", "learn2learn", "higher", "torchopt", "torch_func", "torch_compile", "jax_jit", "jax_patches")


class Absent(Exception):
    """The rival is not installed here; the message says how to get it."""


def prepare(name: str, problem: Problem) -> Step:
    """The Step of the rival of that name.

    Raises:
        Absent: where it cannot be had. ValueError: for a name that is not known.
    """
    if name not in NAMES:
        raise ValueError(f"rivals: given {name!r}; allowed are {', '.join(NAMES)}")
    try:
        module = importlib.import_module(f"bench.rivals.{name}")
    except ImportError as error:
        raise Absent(f"{error}; pip install 'fastmaml[bench]'") from error
    step: Step = module.prepare(problem)
    return step
