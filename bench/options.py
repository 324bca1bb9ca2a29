"""What can be chosen on the command line of pytest bench."""

from __future__ import annotations

import argparse
import math
from typing import Any

import pytest

from bench import rivals
from bench.problem import CASES
from fastmaml import engines

NAMES = {"case": tuple(CASES), "engine": engines.NAMES, "rival": rivals.NAMES}
PATIENCE = 60.0
THREADS = 2

NAMED = pytest.StashKey[bool]()
"""In the stash of pytest's configuration where bench/ is named on the command line: only then are options read."""


def add_to(group: Any) -> None:
    """To a group of pytest's options."""
    for option, allowed in NAMES.items():
        known = f"{', '.join(allowed)}; may be given several times"
        group.addoption(f"--{option}", action="append", choices=allowed, metavar="NAME", help=known)
    patience = "seconds that a first call may take, compilation included [default: %(default)g]"
    group.addoption("--patience", type=seconds, default=PATIENCE, metavar="SECONDS", help=patience)
    threads = "torch's threads; JAX takes as many as there are cores [default: %(default)d]"
    group.addoption("--threads", type=count, default=THREADS, metavar="NUM", help=threads)


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"given {text!r}; allowed are seconds, more than 0")
    return value


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"given {text!r}; allowed are whole numbers from 1")
    return int(text)
