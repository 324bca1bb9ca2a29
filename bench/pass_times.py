"""What every pass over every layer of the C++ core takes in one meta-gradient: time, operations, bytes.

Passes that are taken again in the reverse sweep are counted as often as they are taken. bench/layer_costs.py says how
operations and bytes are counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.contest import Entry, ours, seconds_of, sgemm, take_turns
from bench.environment import machine
from bench.layer_costs import bytes_moved, joined, name_of, operations
from bench.operations import necessary
from bench.problem import CASES
from bench.report import paired
from fastmaml import _core
from fastmaml.engines.cpu.model import core_model
from fastmaml.plan import Plan

PASSES = (
    *("pack", "prepare", "gather", "transpose", "forward", "loss", "sums", "gradient", "backward", "scale"),
    *("tangent forward", "loss tangent", "tangent sums", "tangent gradient", "tangent backward", "reduce", "unpack"),
)
"""In the order in which a step takes them; "pack", "prepare", "gather", "transpose", "scale", "reduce" and "unpack"
move parameters, data and zeros of all layers."""

LEAST_SHOWN = 5e-4
"""Share of the time from which a pass without products gets a line of its own."""


@dataclass(frozen=True)
class Row:
    """One pass over one layer, in one meta-gradient.

    seconds are those of all threads together, divided by the number of threads.
    """

    pass_name: str
    layer: str
    calls: int
    seconds: float
    operations: int
    bytes: int


@dataclass(frozen=True)
class Profile:
    """All passes of one meta-gradient; `wall` seconds of a call without the clock, `timed_wall` with it."""

    rows: Sequence[Row]
    wall: float
    timed_wall: float
    sgemm_rate: float
    necessary: int

    def lines(self) -> list[str]:
        total = sum(row.seconds for row in self.rows)
        done = sum(row.operations for row in self.rows)
        header = f"{'pass':17} {'layer':34} {'calls':>6} {'ms':>9} {'share':>6} {'GFLOP':>8} {'of SGEMM':>9} {'MB':>9} "
        shown = [row for row in self.rows if row.operations or row.seconds >= LEAST_SHOWN * total]
        lines = [header + f"{'GB/s':>7}", *map(self._line, shown), ""]
        for name in PASSES:
            if rows := [row for row in self.rows if row.pass_name == name]:
                lines.append(self._line(_sum(name, "all layers", rows)))
        lines.append(self._line(_sum("all passes", "", self.rows)))
        return [
            *lines,
            f"\nmeta_loss and backward: {self.wall * 1e3:.2f} ms ({self.timed_wall * 1e3:.2f} ms with the clock on), "
            f"of which {(self.timed_wall - total) * 1e3:.2f} ms outside the passes: Python, threads that wait",
            f"operations done / necessary: {done / self.necessary:.3f};  necessary operations a second: "
            f"{self.necessary / self.wall / self.sgemm_rate:.1%} of SGEMM ({self.sgemm_rate / 1e9:.1f} GFLOP/s)",
        ]

    def _line(self, row: Row) -> str:
        total = sum(other.seconds for other in self.rows)
        rates = f"{'':8} {'':9}"
        if row.operations:
            rate = row.operations / row.seconds / self.sgemm_rate
            rates = f"{row.operations / 1e9:8.3f} {rate:9.1%}"
        moved = f"{row.bytes / 1e6:9.2f} {row.bytes / row.seconds / 1e9:7.1f}" if row.bytes else ""
        share = row.seconds / total
        return f"{row.pass_name:17} {row.layer:34} {row.calls:6} {row.seconds * 1e3:9.3f} {share:6.1%} {rates} {moved}"


def measure(case: str, turns: int, turn_seconds: float) -> Profile:
    """The profile of one case, at torch's number of threads.

    Raises:
        ValueError: if its network takes no images.
    """
    problem = CASES[case]()
    plan, batch = problem.plan, problem.batch
    if not plan.takes_images:
        raise ValueError(f"case: {case!r} has no images; the passes are counted for networks of images alone")
    step, product = Entry(case, ours(problem, "cpu")), sgemm()
    take_turns([product, step], turns, turn_seconds)
    assert step.step is not None
    ratio = paired(product, step)
    assert step.seconds is not None
    assert ratio is not None
    rows, timed_wall = _profile(plan, tuple(batch.support.x.shape[2:]), step.step, calls=turns)
    sizes = batch.num_tasks, batch.support.num_samples, batch.query.num_samples
    least = necessary(plan, *sizes, problem.steps, tuple(batch.support.x.shape[2:]))
    return Profile(rows, step.seconds, timed_wall, 2 * 2048**3 / (ratio * step.seconds), least)


def _profile(plan: Plan, sample: tuple[int, ...], step: Callable[[], Any], calls: int) -> tuple[list[Row], float]:
    _core.set_profiling(True)
    try:
        wall = sum(seconds_of(step) for _ in range(calls)) / calls
    finally:
        _core.set_profiling(False)
    layers = joined(core_model(plan, sample).layers())
    rows = [_row(layers, found, calls) for found in _core.profile()]
    return sorted(rows, key=lambda row: PASSES.index(row.pass_name)), wall


def _row(layers: list[dict[str, Any]], found: tuple[str, int, int, int, float], calls: int) -> Row:
    pass_name, at, times, samples, seconds = found
    seconds /= calls * torch.get_num_threads()
    times, samples = times // calls, samples // calls
    if at < 0:
        return Row(pass_name, "", times, seconds, 0, 0)
    layer, first = layers[at], at == 0
    name = f"{at} {name_of(layer)}"
    done, moved = operations(pass_name, layer, first, samples), bytes_moved(pass_name, layer, first, times, samples)
    return Row(pass_name, name, times, seconds, done, moved)


def _sum(pass_name: str, layer: str, rows: Sequence[Row]) -> Row:
    calls, operations, moved = (sum(getattr(row, name) for row in rows) for name in ("calls", "operations", "bytes"))
    return Row(pass_name, layer, calls, sum(row.seconds for row in rows), operations, moved)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    profile = measure(options.case, options.turns, options.turn_seconds)
    print("\n".join(f"{name}: {value}" for name, value in {**machine(), "threads": options.threads}.items()))
    print(f"\n{options.case}, one meta-gradient")
    print("\n".join(profile.lines()))
    if options.json:
        options.json.write_text(json.dumps(asdict(profile), indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.passes", description=__doc__)
    parser.add_argument("--case", choices=tuple(CASES), default="omniglot-5way", help="what to measure; one of images")
    parser.add_argument(
        "--turns", type=int, default=5, help="turns with the matrix product, and calls with the clock on"
    )
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="least length of a turn, in seconds")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    return parser
