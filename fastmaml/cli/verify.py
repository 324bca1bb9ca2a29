"""fastmaml verify: every engine against the float64 reference."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from fastmaml.cli.common import add_threads, set_threads
from fastmaml.verify import CASES, IMAGE_CASES, Case, ImageCase, contestants, full_cases, verify


def add_to(commands: Any) -> None:
    help = "hold every engine against the float64 reference over a grid of networks"
    description = (
        f"{help}; exit code 1 if any error is out of bounds. The compiled engine runs once for each instruction set "
        "that this machine has."
    )
    parser = commands.add_parser("verify", help=help, description=description)
    parser.add_argument(
        "--full", action="store_true", help=f"{len(full_cases())} networks on rows instead of {len(CASES)}"
    )
    parser.add_argument("--engine", action="append", metavar="NAME", help="this engine alone; may be repeated")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="networks whose description holds TEXT, e.g. bn:, conv4 or K10"
    )
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    every: list[Case | ImageCase] = [*(full_cases() if arguments.full else CASES), *IMAGE_CASES]
    cases = [case for case in every if arguments.only in case.name]
    if not cases:
        raise ValueError(f"--only {arguments.only!r}: no network's description holds it; leave it out to see them all")
    verdicts = verify(cases, contestants(arguments.engine), write=partial(print, flush=True))
    return 0 if all(verdict.passed for verdict in verdicts) else 1
