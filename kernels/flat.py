"""Flat updates of all tasks' parameters, one launch for any network, and sums over tasks in a fixed order."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
SUM_ROWS, SUM_BLOCK = 32, 32
"""Rows and elements that a program of a sum loads at a time: many rows, as one after the other would only wait."""
OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["source_stride", "split_stride", "size"])
def _update_kernel(
    source, source_stride, parts, split_stride, inner_lr, target, direction, size, MODE: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of one task, where g is the sum of parts [S, T, P] over S (see `update`)."""
    task = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    place = task * size + at
    g = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLITS):
        g += tl.load(parts + split * split_stride + place, mask=inside, other=0.0)
    rate = tl.load(inner_lr + at, mask=inside, other=0.0)
    old = tl.load(source + task * source_stride + at, mask=inside, other=0.0)
    if MODE == "step":
        tl.store(target + place, old - rate * g, mask=inside)
    elif MODE == "lr":
        tl.store(target + place, tl.load(target + place, mask=inside, other=0.0) - g * old, mask=inside)
    else:
        new = g if MODE == "gradient" else old - g
        tl.store(target + place, new, mask=inside)
        tl.store(direction + place, rate * new, mask=inside)


def update(source: Tensor, parts: Tensor, inner_lr: Tensor, target: Tensor, direction: Tensor, mode: str) -> None:
    """With g = parts.sum(0), parts [S, T, P], and A = inner_lr [P], in one launch:

    "step"      target = source − A ∘ g                           θ_{k+1} from θ_k, [P] or [T, P]
    "gradient"  target = g, direction = A ∘ g                     λ_K
    "reverse"   target = source − g, direction = A ∘ target       λ_k from λ_{k+1}
    "lr"        target −= g ∘ source                              the inner lr's gradient from λ_{k+1}
    """
    splits, tasks, size = parts.shape
    stride = size if source.dim() == 2 else 0
    _update_kernel[(triton.cdiv(size, BLOCK), tasks)](
        source, stride, parts, parts.stride(0), inner_lr, target, direction, size, mode, splits, BLOCK, **OPTIONS
    )


@triton.jit(do_not_specialize=["size", "count", "split_stride"])
def _sum_kernel(
    parts, less, total, mask, share, size, count, split_stride, MASKED: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    acc = tl.zeros((ROWS, BLOCK), tl.float32)
    start = 0
    while start < count:
        rows = start + tl.arange(0, ROWS)
        place = rows.to(tl.int64)[:, None] * size + at[None, :]
        there = (rows < count)[:, None] & inside[None, :]
        value = tl.load(parts + place, mask=there, other=0.0)
        for split in tl.static_range(SPLITS):
            value -= tl.load(less + split * split_stride + place, mask=there, other=0.0)
        acc += value
        start += ROWS
    found = tl.sum(acc, 0) * share
    if MASKED:
        found = tl.where(tl.load(mask + at, mask=inside, other=0) > 0, found, 0.0)
    tl.store(total + at, found, mask=inside)


def sum_rows(
    parts: Tensor, total: Tensor, share: float = 1.0, less: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """share · torch.sum(parts − less.sum(0), 0), zero where mask [P] is; in the same order, whatever the device.

    parts: [G, P]; less: [S, G, P] or None; total: [P], written whole.
    """
    count, size = parts.shape
    _sum_kernel[(triton.cdiv(size, SUM_BLOCK),)](
        parts, parts if less is None else less, total, total if mask is None else mask, share, size, count,
        0 if less is None else less.stride(0), mask is not None, 0 if less is None else less.shape[0], SUM_ROWS,
        SUM_BLOCK, **OPTIONS,
    )  # fmt: skip
    return total
