"""Where gradients go: to updates of all tasks' parameters, and to sums over tasks, each in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .tiles import hand_out

BLOCK = 256
SPLIT_ROWS = 16
"""Elements of a program of `update`, and partial sums that it loads at a time."""
SUM_ROWS, SUM_BLOCK = 32, 32
"""Rows and elements that a program of a sum loads at a time: many rows, as one after the other would only wait."""
OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


@dataclass(frozen=True)
class Sink:
    """What becomes of a gradient g [T, P], as kernels have it tile by tile. With A = rates [P]:

    "plain"     target = g
    "step"      target = source − A ∘ g                           θ_{k+1} from θ_k, [P] or [T, P]
    "gradient"  target = g, direction = A ∘ g                     λ_K
    "reverse"   target = source − g, direction = A ∘ target       λ_k from λ_{k+1}
    "lr"        target −= g ∘ source                              the inner lr's gradient from λ_{k+1}

    Args:
        target: [T, P], written whole; for "reverse" it may be source. source: [P] or [T, P].
        direction: [T, P]; not the one that the pass reads.
    """

    mode: str
    target: Tensor
    source: Tensor
    rates: Tensor
    direction: Tensor

    @classmethod
    def plain(cls, target: Tensor) -> Sink:
        return cls("plain", target, target, target, target)

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the kernels that hand a gradient out."""
        return {
            **{"source": self.source, "rates": self.rates, "target": self.target, "along": self.direction},
            **{"source_stride": stride(self.source), "MODE": self.mode},
        }


class Part(NamedTuple):
    """Parameters [start, end) whose gradient is a sum of partial sums [S, T, span], of parameters from `low` on.

    base: where these lie in the memory of all partial sums, per task.
    """

    start: int
    end: int
    splits: int
    low: int
    span: int
    base: int


@triton.jit(do_not_specialize=["source_stride", "size"])
def _update_kernel(
    source, rates, target, along, partial, source_stride, size, PARTS: tl.constexpr, COUNT: tl.constexpr,
    MODE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of one task; PARTS: COUNT of `Part`, flat."""
    task, tasks = tl.program_id(1).to(tl.int64), tl.num_programs(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    splits, span, low, base = at * 0, at * 0, at * 0, at * 0
    for number in tl.static_range(COUNT):
        there = (at >= PARTS[6 * number]) & (at < PARTS[6 * number + 1])
        splits = tl.where(there, PARTS[6 * number + 2], splits)
        low = tl.where(there, PARTS[6 * number + 3], low)
        span = tl.where(there, PARTS[6 * number + 4], span)
        base = tl.where(there, PARTS[6 * number + 5], base)
    first = partial + base.to(tl.int64) * tasks + task * span + at - low
    g = tl.zeros((BLOCK,), tl.float32)
    most = tl.max(splits, 0)
    start = 0
    while start < most:
        split = start + tl.arange(0, ROWS)
        place = first[None, :] + split.to(tl.int64)[:, None] * (tasks * span)[None, :]
        g += tl.sum(tl.load(place, mask=split[:, None] < splits[None, :], other=0.0), 0)
        start += ROWS
    sink = (source + task * source_stride, rates, target + task * size, along + task * size)
    hand_out(g, at, splits > 0, sink, MODE)


def update(sink: Sink, partial: Tensor, parts: Sequence[Part]) -> None:
    """Sums the partial sums of some parameters, and hands that to the sink, in one launch."""
    tasks, size = sink.target.shape
    flat = tuple(number for part in parts for number in part)
    _update_kernel[(triton.cdiv(size, BLOCK), tasks)](
        **sink.arguments, partial=partial, size=size, PARTS=flat, COUNT=len(parts), ROWS=SPLIT_ROWS, BLOCK=BLOCK,
        **OPTIONS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["size", "count"])
def _sum_kernel(
    parts, total, mask, share, size, count, MASKED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    acc = tl.zeros((ROWS, BLOCK), tl.float32)
    start = 0
    while start < count:
        rows = start + tl.arange(0, ROWS)
        place = rows.to(tl.int64)[:, None] * size + at[None, :]
        acc += tl.load(parts + place, mask=(rows < count)[:, None] & inside[None, :], other=0.0)
        start += ROWS
    found = tl.sum(acc, 0) * share
    if MASKED:
        found = tl.where(tl.load(mask + at, mask=inside, other=0) > 0, found, 0.0)
    tl.store(total + at, found, mask=inside)


def sum_rows(parts: Tensor, total: Tensor, share: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """share · torch.sum(parts, 0), zero where mask [P] is; in the same order, whatever the device.

    parts: [G, P]; total: [P], written whole.
    """
    count, size = parts.shape
    _sum_kernel[(triton.cdiv(size, SUM_BLOCK),)](
        parts, total, total if mask is None else mask, share, size, count, mask is not None, SUM_ROWS, SUM_BLOCK,
        **OPTIONS,
    )  # fmt: skip
    return total


def stride(flat: Tensor) -> int:
    """From one task's parameters to the next's, 0 where all share them, [P]."""
    return flat.shape[-1] if flat.dim() == 2 else 0
