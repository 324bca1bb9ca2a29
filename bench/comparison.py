"""The comparison on the CPU: one exact second-order meta-gradient, ours against the rivals, in one run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import environment, rivals
from bench.contest import OURS, OURS_BY_AUTOGRAD, allowed, enter, sgemm, take_turns, truth
from bench.operations import necessary
from bench.problem import CASES, Problem
from bench.report import CaseReport, Overhead
from fastmaml import engines

SGEMM_SIZE = 2048


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = {**environment.machine(), "threads": str(options.threads)}
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    reports = []
    for name in options.case:
        reports.append(measure(name, options.rivals, options.turns, options.turn_seconds, options.patience))
        print("\n" + "\n".join(reports[-1].lines()), flush=True)
    if options.json:
        result = {"machine": facts, "cases": [report.data() for report in reports]}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(case: str, names: Sequence[str], turns: int, turn_seconds: float, limit: float | None) -> CaseReport:
    """Ours and the rivals of these names on a case; a first call may take `limit` seconds."""
    problem = CASES[case]()
    plan, (reference, eager_error) = problem.plan, truth(problem)
    contestants = (OURS, OURS_BY_AUTOGRAD, *names)
    entries = [enter(name, problem, reference, allowed(eager_error), limit) for name in contestants]
    product = sgemm(SGEMM_SIZE)
    take_turns([product, *entries], turns, turn_seconds)
    sizes = problem.batch.num_tasks, problem.batch.support.num_samples, problem.batch.query.num_samples
    return CaseReport(
        case,
        entries,
        operations=necessary(plan, *sizes, problem.steps, tuple(problem.batch.support.x.shape[2:])),
        product=product,
        product_operations=2 * SGEMM_SIZE**3,
        overheads=_overheads(problem),
    )


def _overheads(problem: Problem) -> Sequence[Overhead]:
    if "cpu" not in engines.available():
        return ()
    from bench.overhead import overheads  # which imports the compiled core

    return overheads(problem)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--case", nargs="+", choices=tuple(CASES), default=list(CASES), help="what to measure")
    parser.add_argument("--rivals", nargs="*", choices=rivals.NAMES, default=list(rivals.NAMES), help="against whom")
    parser.add_argument("--turns", type=int, default=7, help="turns of each contestant; the median counts")
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="least length of a turn, in seconds")
    parser.add_argument("--patience", type=float, help="seconds that a first call may take, compilation included")
    parser.add_argument("--threads", type=int, default=2, help="torch threads; JAX takes as many as there are cores")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    return parser
