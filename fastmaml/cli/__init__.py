"""The command line: fastmaml train | evaluate | reproduce | verify | doctor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fastmaml.cli import doctor, evaluate, reproduce, train, verify
from fastmaml.cli.options import Parser
from fastmaml.cli.version import Version
from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runs.run_folder import FolderInUse

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130

_COMMANDS = (train, evaluate, reproduce, verify, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code.

    0: done. 1: a check failed, training met a loss that is not finite, or the result has diverged. 2: an error of the
    user's, told in a sentence. 130: interrupted by Ctrl-C. With FASTMAML_TRACEBACK=1 in the environment errors show
    where they come from.
    """
    try:
        parsed = parser().parse_args(arguments)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("fastmaml: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except _USER_ERRORS as error:
        if os.environ.get("FASTMAML_TRACEBACK"):
            raise
        print(f"fastmaml: error: {error}", file=sys.stderr)
        return FAILURE if isinstance(error, FloatingPointError) else USER_ERROR


_USER_ERRORS = (ValueError, OSError, ImportError, CheckpointError, FolderInUse, FloatingPointError)


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(prog="fastmaml", description="MAML with a batched inner loop in compiled kernels.")
    top.add_argument("--version", action=Version, help="print versions and the core's instruction set, in one line")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for command in _COMMANDS:
        command.add_to(commands)
    return top
