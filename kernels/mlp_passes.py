"""Whole passes over a fully connected network: forward, loss and backward of one task, and the flat updates."""

import triton
import triton.language as tl

from .mlp_backward import backward_block
from .mlp_forward import DERIVATIVE, FIELDS, HEADER, forward_block
from .mlp_losses import loss_block


@triton.jit
def real_rows(weights, num, PADDED: tl.constexpr, WEIGHTED: tl.constexpr):
    """Row numbers, which of them count, how many do, and the sum of their weights."""
    rows = tl.arange(0, PADDED)
    real = rows < num
    total = num * 1.0  # not num.to(): a 1 is a constant to Triton
    count = total
    if WEIGHTED:
        values = tl.load(weights + rows, mask=real, other=0.0)
        real = values > 0
        total = tl.sum(values)
        count = tl.sum(tl.where(real, 1.0, 0.0))
    return rows, real, count, total


@triton.jit
def forward(theta, direction, x, scratch, rows, real, count, NET: tl.constexpr, TANGENT: tl.constexpr):
    DEPTH: tl.constexpr = NET[1]
    for layer in tl.static_range(DEPTH):
        if layer == 0:
            forward_block(theta, direction, x, x, scratch, rows, real, count, NET, HEADER, True, TANGENT)
        else:
            h = scratch + NET[HEADER + (layer - 1) * FIELDS + 9] * NET[0]
            h_dot = h + DERIVATIVE * NET[0] * NET[HEADER + (layer - 1) * FIELDS + 1]
            forward_block(
                theta, direction, h, h_dot, scratch, rows, real, count, NET, HEADER + layer * FIELDS, False, TANGENT
            )


@triton.jit
def backward(
    target,
    direction,
    x,
    scratch,
    weights,
    num,
    rows,
    real,
    count,
    NET: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    DEPTH: tl.constexpr = NET[1]
    for layer in tl.static_range(DEPTH - 1, 0, -1):
        below = scratch + NET[HEADER + (layer - 1) * FIELDS + 9] * NET[0]
        below_dot = below + DERIVATIVE * NET[0] * NET[HEADER + (layer - 1) * FIELDS + 1]
        backward_block(
            target,
            direction,
            below,
            below_dot,
            scratch,
            below,
            weights,
            num,
            rows,
            real,
            count,
            NET,
            HEADER + layer * FIELDS,
            False,
            TANGENT,
            MODE,
        )
    backward_block(
        target, direction, x, x, scratch, scratch, weights, num, rows, real, count, NET, HEADER, True, TANGENT, MODE
    )


@triton.jit
def gradient_pass(
    target,
    direction,
    x,
    y,
    weights,
    num,
    scratch,
    PADDED: tl.constexpr,
    NET: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    """The loss at target[0], its gradient handed out as MODE says (see `emit`); with TANGENT its derivative too."""
    rows, real, count, total = real_rows(weights, num, PADDED, NET[3])
    LAST: tl.constexpr = HEADER + (NET[1] - 1) * FIELDS
    forward(target[0], direction, x, scratch, rows, real, count, NET, TANGENT)
    loss = loss_block(scratch, y, weights, num, total, PADDED, NET, LAST, TANGENT)
    backward(target, direction, x, scratch, weights, num, rows, real, count, NET, TANGENT, MODE)
    return loss


@triton.jit
def copy(source, destination, size, FLAT: tl.constexpr):
    start = 0
    while start < size:
        at = start + tl.arange(0, FLAT)
        tl.store(destination + at, tl.load(source + at, mask=at < size), mask=at < size)
        start += FLAT


@triton.jit
def scale(a, b, product, size: tl.constexpr, FLAT: tl.constexpr):
    """product = a ∘ b, for all threads of the program to see."""
    for start in range(0, size, FLAT):
        at = start + tl.arange(0, FLAT)
        inside = at < size
        tl.store(product + at, tl.load(a + at, mask=inside) * tl.load(b + at, mask=inside), mask=inside)
    tl.debug_barrier()


@triton.jit
def accumulate(values, sums, share, size: tl.constexpr, fresh, FLAT: tl.constexpr):
    """sums += share · values; sums = share · values where `fresh`."""
    for start in range(0, size, FLAT):
        at = start + tl.arange(0, FLAT)
        inside = at < size
        old = tl.load(sums + at, mask=inside & (at * 0 + fresh == 0), other=0.0)
        tl.store(sums + at, old + share * tl.load(values + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def fill(values, number, size: tl.constexpr, FLAT: tl.constexpr):
    for start in range(0, size, FLAT):
        at = start + tl.arange(0, FLAT)
        tl.store(values + at, tl.full((FLAT,), number, tl.float32), mask=at < size)
