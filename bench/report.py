"""A contest as lines of text, and as plain data for JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.contest import OURS, Entry


@dataclass(frozen=True)
class Overhead:
    """Seconds a call of `name` takes beyond the one call into the compiled core, and that one takes (None: no core)."""

    name: str
    python: float
    core: float | None

    def line(self) -> str:
        core = "" if self.core is None else f", the core {self.core * 1e6:.1f} µs"
        return f"{'':14} {self.name}: Python {self.python * 1e6:.1f} µs a call{core}"


def paired(entry: Entry, other: Entry) -> float | None:
    """How many times as long as the other it takes: the median over turns, in which both met the same machine."""
    ratios = [mine / theirs for mine, theirs in zip(entry.turns, other.turns, strict=False)]
    return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class CaseReport:
    """What was measured of one case.

    Args:
        name: of the case.
        entries: the contestants, ours first.
        operations: necessary floating-point operations of one meta-gradient.
        product: torch's matrix product, timed in the same turns, and its operations.
        overheads: what Python costs, where it was measured.
    """

    name: str
    entries: Sequence[Entry]
    operations: int
    product: Entry
    product_operations: int
    overheads: Sequence[Overhead] = ()

    @property
    def ours(self) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == OURS), None)

    def share(self, entry: Entry) -> float | None:
        """Of the SGEMM rate, counting necessary operations only."""
        ratio = paired(self.product, entry)
        return None if ratio is None else ratio * self.operations / self.product_operations

    def times_ours(self, entry: Entry) -> float | None:
        """How many times as long as ours it takes."""
        return None if self.ours is None else paired(entry, self.ours)

    def lines(self) -> list[str]:
        header = f"{'':14} {'ms':>10} {'× ours':>8} {'of SGEMM':>9} {'error':>9} {'first call, s':>14}"
        lines = [f"{self.name}: {self.operations / 1e6:.2f} million necessary operations", header]
        lines += [self._line(entry) for entry in self.entries]
        return lines + [overhead.line() for overhead in self.overheads]

    def data(self) -> dict[str, Any]:
        return {
            "case": self.name,
            "necessary_operations": self.operations,
            "sgemm_operations_per_second": self.product_operations / seconds
            if (seconds := self.product.seconds)
            else None,
            "overheads": [dataclasses.asdict(overhead) for overhead in self.overheads],
            "contestants": [self._entry_data(entry) for entry in self.entries],
        }

    def _line(self, entry: Entry) -> str:
        if entry.seconds is None:
            return f"{entry.name:14} {entry.obstacle}"
        ratio, share = self.times_ours(entry), self.share(entry)
        shown = "" if ratio is None else f"{ratio:.2f}"
        return (
            f"{entry.name:14} {entry.seconds * 1e3:10.3f} {shown:>8} {share:9.1%} {entry.error:9.1e} "
            f"{entry.first_call:14.3f}"
        )

    def _entry_data(self, entry: Entry) -> dict[str, Any]:
        return {
            "name": entry.name,
            "seconds": entry.seconds,
            "turns": entry.turns,
            "times_ours": self.times_ours(entry),
            "share_of_sgemm": self.share(entry),
            "relative_error": entry.error,
            "first_call_seconds": entry.first_call,
            "obstacle": entry.obstacle,
        }
