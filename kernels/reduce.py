"""Sums over programs or tasks in a fixed order, and the flat updates of all tasks at once."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256


@triton.jit
def _sum_kernel(parts, total, mask, size, count, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    acc = tl.zeros((BLOCK,), tl.float32)
    row = parts + at
    done = 0
    while done < count:
        acc += tl.load(row, mask=inside, other=0.0)
        row += size
        done += 1
    if MASKED:
        acc = tl.where(tl.load(mask + at, mask=inside, other=0) > 0, acc, 0.0)
    tl.store(total + at, acc, mask=inside)


def sum_rows(parts: Tensor, total: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch.sum(parts, 0), zero where mask [P] is; parts [G, P] in their order, whatever the device.

    total: [P], written whole.
    """
    count, size = parts.shape
    grid = (triton.cdiv(size, BLOCK),)
    _sum_kernel[grid](
        parts, total, total if mask is None else mask, size, count, mask is not None, BLOCK, num_warps=4,
        enable_fp_fusion=True,
    )  # fmt: skip
    return total
