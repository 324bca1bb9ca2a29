"""Batch norm's moments, taken by the convolution that makes the maps, and a unit applied by the layer that reads them.

The programs of a convolution leave partial moments of their tiles, and the last of them to end puts these together, in
a fixed order: no pass over the maps, and the same bits whichever program was last. Statistics of a task are [4, C]:
mean and r = 1/sqrt(var + eps) of the maps y, m(ẏ) and m(x̂ ẏ), by the letters of docs/mathematics.md.
"""

import triton
import triton.language as tl

from .tiles import activate

#: programs whose moments are loaded at a time
PARTS = tl.constexpr(64)


@triton.jit
def tile_moments(value, inside):
    """Of the rows `inside` of a tile [BM, BN]: how many, means, sums of squares about them [BN]."""
    count = tl.sum(tl.where(inside, 1.0, 0.0), 0)
    mean = tl.sum(tl.where(inside[:, None], value, 0.0), 0) / count
    centred = tl.where(inside[:, None], value - mean[None, :], 0.0)
    return count, mean, tl.sum(centred * centred, 0)


@triton.jit
def tangent_moments(dot, hat, inside):
    """Of the rows `inside` of tiles ẏ and x̂: how many, sums of ẏ and of x̂ ẏ [BN]."""
    dot = tl.where(inside[:, None], dot, 0.0)
    return tl.sum(tl.where(inside, 1.0, 0.0), 0), tl.sum(dot, 0), tl.sum(dot * hat, 0)


@triton.jit
def store_parts(parts, count, first, second, co, C: tl.constexpr):
    """Partial moments of one program into parts [3, C]."""
    inside = co < C
    tl.store(parts + co, tl.zeros_like(first) + count, mask=inside)
    tl.store(parts + C + co, first, mask=inside)
    tl.store(parts + 2 * C + co, second, mask=inside)


@triton.jit
def is_last(counter, programs):
    """Whether this is the last of `programs` to come here; what the others stored before it is then there to be read.

    Leaves the counter at zero, as it was found. A GPU must order global memory at barriers (`Moments.at_once`).
    """
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == programs - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def _block(parts, start, blocks, co, C: tl.constexpr):
    """Counts and both moments of PARTS programs, past the first cache, which may hold what was there before."""
    block = start + tl.arange(0, PARTS)
    there = (block < blocks)[:, None] & (co < C)[None, :]
    place = parts + block[:, None] * (3 * C) + co[None, :]
    count = tl.load(place, mask=there, other=0.0, cache_modifier=".cg")
    first = tl.load(place + C, mask=there, other=0.0, cache_modifier=".cg")
    second = tl.load(place + 2 * C, mask=there, other=0.0, cache_modifier=".cg")
    return count, first, second


@triton.jit
def finish_moments(
    parts, statistics, blocks, positions, eps, co, C: tl.constexpr, BN: tl.constexpr, TANGENT: tl.constexpr
):
    """From the parts [blocks, 3, C] of one task its statistics: mean and r, or with TANGENT m(ẏ) and m(x̂ ẏ)."""
    inside = co < C
    mean = tl.zeros((BN,), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    start = 0
    while start < blocks:
        count, first, second = _block(parts, start, blocks, co, C)
        mean += tl.sum(first if TANGENT else count * first, 0)
        sums += tl.sum(second, 0)
        start += PARTS
    mean = mean / positions
    if TANGENT:
        tl.store(statistics + 2 * C + co, mean, mask=inside)
        tl.store(statistics + 3 * C + co, sums / positions, mask=inside)
    else:
        start = 0
        while start < blocks:
            count, first, second = _block(parts, start, blocks, co, C)
            moved = first - mean[None, :]
            sums += tl.sum(count * moved * moved, 0)
            start += PARTS
        tl.store(statistics + co, mean, mask=inside)
        tl.store(statistics + C + co, 1.0 / tl.sqrt_rn(sums / positions + eps), mask=inside)


@triton.jit(do_not_specialize=["blocks", "positions"])
def _finish_kernel(parts, statistics, blocks, positions, eps, C: tl.constexpr, BN: tl.constexpr, TANGENT: tl.constexpr):
    """As a launch of its own, for GPUs whose barriers do not order global memory."""
    task = tl.program_id(1).to(tl.int64)
    co = tl.program_id(0) * BN + tl.arange(0, BN)
    finish_moments(
        parts + task * blocks * 3 * C, statistics + task * 4 * C, blocks, positions, eps, co, C, BN, TANGENT
    )  # fmt: skip


@triton.jit
def unit_terms(
    statistics, theta, direction, channel, inside, C: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr,
    SHIFT: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Of channels, to be `folded`: mean, r, γ, β; with TANGENT m(ẏ), m(x̂ ẏ), γ̇, β̇, else zeros."""
    zero = tl.zeros(channel.shape, tl.float32)
    mean, r, scale, shift = zero, zero + 1.0, zero + 1.0, zero
    mean_dot, along, scale_dot, shift_dot = zero, zero, zero, zero
    if NORM:
        mean = tl.load(statistics + channel, mask=inside, other=0.0)
        r = tl.load(statistics + C + channel, mask=inside, other=0.0)
        if TANGENT:
            mean_dot = tl.load(statistics + 2 * C + channel, mask=inside, other=0.0)
            along = tl.load(statistics + 3 * C + channel, mask=inside, other=0.0)
    if SCALE >= 0:
        scale = tl.load(theta + SCALE + channel, mask=inside, other=0.0)
        if TANGENT:
            scale_dot = tl.load(direction + SCALE + channel, mask=inside, other=0.0)
    if SHIFT >= 0:
        shift = tl.load(theta + SHIFT + channel, mask=inside, other=0.0)
        if TANGENT:
            shift_dot = tl.load(direction + SHIFT + channel, mask=inside, other=0.0)
    return mean, r, scale, shift, mean_dot, along, scale_dot, shift_dot


@triton.jit
def folded(terms):
    """Five terms of a unit: activation((y − mean) a + β) and, before the activation's slope, ẏ a + (y − mean) b + c."""
    mean, r, scale, shift, mean_dot, along, scale_dot, shift_dot = terms
    a = r * scale
    return mean, a, shift, r * (scale_dot - a * along), shift_dot - a * mean_dot


@triton.jit
def folded_rows(terms):
    """The same as rows [1, C], to go with tiles whose columns are channels."""
    mean, a, shift, b, c = folded(terms)
    return mean[None, :], a[None, :], shift[None, :], b[None, :], c[None, :]


@triton.jit
def through_unit(value, dot, terms, ACTIVATION: tl.constexpr, TANGENT: tl.constexpr):
    """activation(γ x̂ + β) of maps y, and with TANGENT its derivative along ẏ; terms: folded."""
    mean, a, shift, b, c = terms
    centred = value - mean
    u = activate(centred * a + shift, ACTIVATION)
    if TANGENT:
        dot = dot * a + centred * b + c
        if ACTIVATION == "relu":
            dot = tl.where(u > 0, dot, 0.0)
        elif ACTIVATION == "tanh":
            dot = (1.0 - u * u) * dot
    return u, dot
