"""fastmaml --version: of the package, of torch, and the core's instruction set, in one line."""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import torch

from fastmaml import __version__


class Version(argparse.Action):
    """Prints the line and ends, with exit code 0."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *parsed: Any, **options: Any) -> None:
        print(line())
        parser.exit()


def line() -> str:
    return f"fastmaml {__version__}, torch {torch.__version__}, {_core()}"


def _core() -> str:
    if importlib.util.find_spec("fastmaml._core") is None:
        return "no C++ core"
    try:
        from fastmaml import _core
    except ImportError as error:
        return f"a C++ core that does not load ({error})"
    return f"C++ core for {_core.isa()}"
