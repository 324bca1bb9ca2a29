"""Runs the grid and prints it as a table, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from fastmaml.verify.build import build
from fastmaml.verify.cases import Case
from fastmaml.verify.contestants import Contestant
from fastmaml.verify.image_cases import ImageCase
from fastmaml.verify.measure import BOUNDS, EAGER_FACTOR, Truth
from fastmaml.verify.verdict import DTYPES, Verdict, judge

_WIDTH = 10

_LEGEND = (
    "Relative error (norm-wise) against the float64 reference: of the quantity that comes nearest to its bound,\n"
    "among meta-gradient, fast parameters, losses, outputs, predictions and Hessian-vector products.\n"
    f"Bounds: {BOUNDS[torch.float32]:.0e} in float32, {BOUNDS[torch.float64]:.0e} in float64;\n"
    f"* where eager PyTorch's own error is larger, {EAGER_FACTOR:g} times that.  'eager' is that error, in float32."
)


def verify(
    cases: Iterable[Case | ImageCase], contestants: Sequence[Contestant], write: Callable[[str], object] = print
) -> list[Verdict]:
    """Judge every contestant on every case in float32 and float64; `write` is handed the table line by line."""
    write(_LEGEND + "\n")
    write(_header(contestants))
    verdicts: list[Verdict] = []
    for case in cases:
        truth = Truth.of(build(case))
        row = [judge(contestant, truth, dtype) for contestant in contestants for dtype in DTYPES]
        write(_row(case, truth, row))
        verdicts += row
    for line in _summary(verdicts):
        write(line)
    return verdicts


def _header(contestants: Sequence[Contestant]) -> str:
    names = "".join(f"{contestant.name:>{2 * _WIDTH}}" for contestant in contestants)
    precisions = "".join(f"{'float32':>{_WIDTH}}{'float64':>{_WIDTH}}" for _ in contestants)
    return f"{'eager':>{_WIDTH}}{names}\n{'float32':>{_WIDTH}}{precisions}   network, loss, T N M K, rule"


def _row(case: Case | ImageCase, truth: Truth, verdicts: Sequence[Verdict]) -> str:
    eager = f"{max(truth.eager.values()):{_WIDTH}.0e}"
    return eager + "".join(map(_cell, verdicts)) + f"   {case.name}"


def _cell(verdict: Verdict) -> str:
    if verdict.refusal is not None:
        return f"{'–':>{_WIDTH}}"
    if not verdict.passed:
        return f"{'FAIL':>{_WIDTH}}"
    mark = "*" if verdict.by_eager else " "
    return f"{verdict.errors[verdict.worst]:{_WIDTH - 1}.0e}{mark}"


def _summary(verdicts: Sequence[Verdict]) -> list[str]:
    """Failures in full, refusals with their reasons, and the count."""
    ran = [verdict for verdict in verdicts if verdict.refusal is None]
    failed = [verdict for verdict in ran if not verdict.passed]
    lines = [""] + [_failure(verdict) for verdict in failed]
    refusals = {(v.contestant, v.refusal): v for v in verdicts if v.refusal is not None}
    lines += [f"– {contestant} refused, e.g. {v.case}: {why}" for (contestant, why), v in refusals.items()]
    lines.append(
        f"{len(ran) - len(failed)} of {len(ran)} checks passed, {len(failed)} failed, "
        f"{len(verdicts) - len(ran)} refused"
    )
    return lines


def _failure(verdict: Verdict) -> str:
    off = ", ".join(
        f"{quantity} {error:.1e} > {verdict.bounds[quantity]:.1e}"
        for quantity, error in verdict.errors.items()
        if not error <= verdict.bounds[quantity]
    )
    dtype = str(verdict.dtype).removeprefix("torch.")
    return f"FAIL {verdict.contestant} {dtype}, {verdict.case}: {off}"
