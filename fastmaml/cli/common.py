"""Options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastmaml.cli.options import given, in_flags
from fastmaml.cli.places import place
from fastmaml.recipes import PolicyRecipe, Recipe
from fastmaml.recipes.options import options_of
from fastmaml.rl.trainer import TrainResult as PolicyTrainResult
from fastmaml.training.trainer import TrainResult

Kind = TypeVar("Kind", Recipe, PolicyRecipe)


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads; they never change the results [default: all cores]"
    )


def add_run_options(parser: argparse.ArgumentParser, out: str) -> None:
    """Where a run lies and how it is shown."""
    parser.add_argument(
        "--out", type=place, default=Path(out), metavar="FOLDER",
        help=f"folder of checkpoints, logs and results; a run that was stopped there goes on [default: {out}]",
    )  # fmt: skip
    parser.add_argument("--no-progress", action="store_true", help="draw no progress bar")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard events into the folder too")
    add_threads(parser)


def set_threads(arguments: argparse.Namespace) -> None:
    """Put --threads into force.

    Raises:
        ValueError: fewer than one.
    """
    if arguments.threads is None:
        return
    if arguments.threads < 1:
        raise ValueError(f"--threads {arguments.threads}: must be at least 1")
    torch.set_num_threads(arguments.threads)


def recipe_of(kind: type[Kind], arguments: argparse.Namespace, base: Mapping[str, Any] | None = None) -> Kind:
    """The recipe with the options of the command line, over those in `base`.

    Raises:
        ValueError: an option out of range, named as on the command line.
    """
    try:
        return kind(**{**(base or {}), **given(kind, arguments)})
    except ValueError as error:
        raise ValueError(in_flags(str(error), [item.name for item in options_of(kind)])) from error


def trainer_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_run_options` mean to a Trainer."""
    return {"progress": not arguments.no_progress, "tensorboard": arguments.tensorboard}


def say(text: str) -> None:
    """A line on stdout, there at once: what follows may take hours."""
    print(text, flush=True)


def warned(*problems: str | None) -> int:
    """Say what is wrong with a result, if anything; gives the exit code."""
    found = [problem for problem in problems if problem is not None]
    for problem in found:
        print(f"fastmaml: warning: {problem}", file=sys.stderr)
    return 1 if found else 0


def stopped(result: TrainResult | PolicyTrainResult) -> int:
    """Say where training was interrupted; gives the exit code, 128 + the signal (130 for Ctrl-C)."""
    print(f"stopped after iteration {result.iteration}; run the same command again to go on", file=sys.stderr)
    return 128 + (result.signal or 0)
