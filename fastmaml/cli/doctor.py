"""fastmaml doctor: what is installed here, and what that means for speed."""

from __future__ import annotations

import argparse
from typing import Any

from fastmaml.cli.common import add_threads, set_threads
from fastmaml.cli.installation import report


def add_to(commands: Any) -> None:
    help = "say what is installed, which engine is taken, and why not a faster one"
    parser = commands.add_parser("doctor", help=help, description=help)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    print(report())
    return 0
