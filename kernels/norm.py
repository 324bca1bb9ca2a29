"""Batch norm, activation and pooling of per-task maps, fused; a program carries one channel of one task, or part of it.

The convolution before has taken the statistics [T, 4, C] (moments.py). Pools cover P × P windows, and windows cut by
the border are dropped, as torch drops them; their elements still count in the statistics. By the letters of
docs/mathematics.md; c is the cotangent of the norm's output γ x̂ + β.
"""

import triton
import triton.language as tl

from .moments import folded, through_unit, unit_terms
from .tiles import hand_out


@triton.jit
def _windows(start, N, ROWS: tl.constexpr, COLS: tl.constexpr, B: tl.constexpr):
    """A block of windows, ROWS × COLS of a sample: sample, row, column, whether there."""
    at = start + tl.arange(0, B)
    n = at // (ROWS * COLS)
    return n, at // COLS % ROWS, at % COLS, n < N


@triton.jit
def _element(n, oh, ow, real, i, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr):
    """Place of element i of each window within a channel, and whether it is there."""
    h, v = oh * P + i // P, ow * P + i % P
    return n * (C * H * W) + h * W + v, real & (h < H) & (v < W)


@triton.jit
def _terms(
    statistics, theta, direction, channel, C: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr,
    SHIFT: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """As `unit_terms`, of one channel, [1]."""
    at = channel + tl.arange(0, 1)
    return unit_terms(statistics, theta, direction, at, at < C, C, NORM, SCALE, SHIFT, TANGENT)


@triton.jit(do_not_specialize=["stride", "N"])
def _forward_kernel(
    y, theta, stride, out, statistics, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    POOL: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, ACTIVATION: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    """out = pool(activation(γ x̂ + β))."""
    task, channel = tl.program_id(2).to(tl.int64), tl.program_id(1)
    y += (task * N * C + channel) * (H * W)
    out += (task * N * C + channel) * ((H // P) * (W // P))
    theta += task * stride
    terms = folded(_terms(statistics + task * 4 * C, theta, theta, channel, C, NORM, SCALE, SHIFT, False))
    start = tl.program_id(0) * B
    while start < N * (H // P) * (W // P):
        n, oh, ow, real = _windows(start, N, H // P, W // P, B)
        best = tl.zeros((B,), tl.float32)
        for i in tl.static_range(P * P):
            place, there = _element(n, oh, ow, real, i, C, H, W, P)
            value = tl.load(y + place, mask=there, other=0.0)
            u, _ = through_unit(value, value, terms, ACTIVATION, False)
            if POOL == "mean":
                best += u / (P * P)
            elif i == 0:
                best = u
            else:
                best = tl.where((u > best) | (u != u), u, best)
        tl.store(out + n * (C * (H // P) * (W // P)) + oh * (W // P) + ow, best, mask=real)
        start += B * tl.num_programs(0)


@triton.jit
def _selected(
    y, n, oh, ow, real, terms, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    ACTIVATION: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Which element of each window is its (first) maximum."""
    best = tl.zeros((B,), tl.float32)
    chosen = tl.zeros((B,), tl.int32)
    for i in tl.static_range(P * P):
        place, there = _element(n, oh, ow, real, i, C, H, W, P)
        value = tl.load(y + place, mask=there, other=0.0)
        u, _ = through_unit(value, value, terms, ACTIVATION, False)
        if i == 0:
            best = u
        else:
            chosen = tl.where(u > best, i, chosen)
            best = tl.where(u > best, u, best)
    return chosen


@triton.jit(do_not_specialize=["stride", "direction_stride", "N"])
def _tangent_kernel(
    y, y_dot, theta, direction, stride, direction_stride, out_dot, statistics, N, C: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, P: tl.constexpr, POOL: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr,
    SHIFT: tl.constexpr, ACTIVATION: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Derivative of `_forward_kernel`'s output."""
    task, channel = tl.program_id(2).to(tl.int64), tl.program_id(1)
    y += (task * N * C + channel) * (H * W)
    y_dot += (task * N * C + channel) * (H * W)
    out_dot += (task * N * C + channel) * ((H // P) * (W // P))
    theta += task * stride
    direction += task * direction_stride
    terms = folded(_terms(statistics + task * 4 * C, theta, direction, channel, C, NORM, SCALE, SHIFT, True))
    start = tl.program_id(0) * B
    while start < N * (H // P) * (W // P):
        n, oh, ow, real = _windows(start, N, H // P, W // P, B)
        best, out = tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32)
        for i in tl.static_range(P * P):
            place, there = _element(n, oh, ow, real, i, C, H, W, P)
            value, dot = tl.load(y + place, mask=there, other=0.0), tl.load(y_dot + place, mask=there, other=0.0)
            u, dot = through_unit(value, dot, terms, ACTIVATION, True)
            if POOL == "mean":
                out += dot / (P * P)
            elif i == 0:
                best, out = u, dot
            else:
                out = tl.where(u > best, dot, out)
                best = tl.where(u > best, u, best)
        tl.store(out_dot + n * (C * (H // P) * (W // P)) + oh * (W // P) + ow, out, mask=real)
        start += B * tl.num_programs(0)


@triton.jit
def _cotangents(
    y, y_dot, out_bar, out_bar_dot, n, oh, ow, real, chosen, i, terms, C: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, P: tl.constexpr, POOL: tl.constexpr, ACTIVATION: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Of element i of each window: its place, whether it is there, x̂, its derivative, c and ċ."""
    mean, r, scale, _, mean_dot, along, scale_dot, shift_dot = terms
    place, there = _element(n, oh, ow, real, i, C, H, W, P)
    value = tl.load(y + place, mask=there, other=0.0)
    hat = tl.where(there, (value - mean) * r, 0.0)
    passes = real & (oh < H // P) & (ow < W // P) & ((chosen == i) | (POOL == "mean"))
    share = 1.0 / (P * P) if POOL == "mean" else 1.0
    pooled = n * (C * (H // P) * (W // P)) + oh * (W // P) + ow
    c = share * tl.load(out_bar + pooled, mask=passes, other=0.0)
    c_dot = tl.zeros_like(c)
    hat_dot = tl.zeros_like(c)
    if TANGENT:
        c_dot = share * tl.load(out_bar_dot + pooled, mask=passes, other=0.0)
        dot = tl.load(y_dot + place, mask=there, other=0.0)
        hat_dot = tl.where(there, r * (dot - mean_dot - hat * along), 0.0)
    u, _ = through_unit(value, value, folded(terms), ACTIVATION, False)
    if ACTIVATION == "relu":
        c = tl.where(u > 0, c, 0.0)
        c_dot = tl.where(u > 0, c_dot, 0.0)
    elif ACTIVATION == "tanh":
        slope = 1.0 - u * u
        u_dot = slope * (scale * hat_dot + scale_dot * hat + shift_dot)
        c_dot = slope * c_dot - 2.0 * u * u_dot * c
        c = slope * c
    return place, there, hat, hat_dot, c, c_dot


@triton.jit(do_not_specialize=["stride", "direction_stride", "source_stride", "SIZE", "N"])
def _backward_kernel(
    y, y_dot, out_bar, out_bar_dot, theta, direction, y_bar, statistics, source, rates, target, along, stride,
    direction_stride, source_stride, SIZE, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    POOL: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, ACTIVATION: tl.constexpr,
    TANGENT: tl.constexpr, WANTED: tl.constexpr, MODE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """ȳ of the map; γ̄ and β̄ to the sink where WANTED; with TANGENT the derivatives of all three."""
    task, channel = tl.program_id(1).to(tl.int64), tl.program_id(0)
    base = (task * N * C + channel) * (H * W)
    y += base
    y_dot += base
    y_bar += base
    pooled = (task * N * C + channel) * ((H // P) * (W // P))
    out_bar += pooled
    out_bar_dot += pooled
    theta += task * stride
    direction += task * direction_stride
    terms = _terms(statistics + task * 4 * C, theta, direction, channel, C, NORM, SCALE, SHIFT, TANGENT)
    _, r, scale, _, _, mixed, scale_dot, _ = terms
    ROWS: tl.constexpr = (H + P - 1) // P
    COLS: tl.constexpr = (W + P - 1) // P
    zeros = tl.zeros((B,), tl.float32)
    sum_c, sum_hat_c, sum_dot, sum_hat_dot = zeros, zeros, zeros, zeros
    c_mean, c_along, dot_mean, dot_along = 0.0, 0.0, 0.0, 0.0
    size = N * H * W
    # first the sums that batch norm needs of all cotangents, then what becomes of each
    for sweep in tl.static_range(0 if NORM else 1, 2):
        start = 0
        while start < N * ROWS * COLS:
            n, oh, ow, real = _windows(start, N, ROWS, COLS, B)
            chosen = tl.zeros((B,), tl.int32)
            if POOL == "max":
                chosen = _selected(y, n, oh, ow, real, folded(terms), C, H, W, P, ACTIVATION, B)
            for i in tl.static_range(P * P):
                place, there, hat, hat_dot, c, c_dot = _cotangents(
                    y, y_dot, out_bar, out_bar_dot, n, oh, ow, real, chosen, i, terms, C, H, W, P, POOL, ACTIVATION,
                    TANGENT,
                )  # fmt: skip
                if sweep == 0:
                    sum_c += c
                    sum_hat_c += hat * c
                    sum_dot += c_dot
                    sum_hat_dot += hat_dot * c + hat * c_dot
                else:
                    value, value_dot = c, c_dot
                    if NORM:
                        inner = c - c_mean - hat * c_along
                        value = scale * r * inner
                        moved = c_dot - dot_mean - hat_dot * c_along - hat * dot_along
                        value_dot = scale * r * moved + scale_dot * r * inner - r * r * mixed * scale * inner
                    tl.store(y_bar + place, value_dot if TANGENT else value, mask=there)
            start += B
        if sweep == 0:
            c_mean, c_along = tl.sum(sum_c) / size, tl.sum(sum_hat_c) / size
            dot_mean, dot_along = tl.sum(sum_dot) / size, tl.sum(sum_hat_dot) / size
    if NORM and WANTED:
        sink = (source + task * source_stride, rates, target + task * SIZE, along + task * SIZE)
        at = channel + tl.arange(0, 1)
        one = tl.zeros((1,), tl.float32) + size
        if SCALE >= 0:
            hand_out(one * (dot_along if TANGENT else c_along), SCALE + at, at < C, sink, MODE)
        if SHIFT >= 0:
            hand_out(one * (dot_mean if TANGENT else c_mean), SHIFT + at, at < C, sink, MODE)
