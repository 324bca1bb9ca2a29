"""Backward pass of a fully connected network for one task, and its derivative (docs/mathematics.md)."""

import triton
import triton.language as tl

from .mlp_forward import DERIVATIVE, HAT, LINEAR_BAR, Y_BAR, R, projected
from .tiles import THIN, bias_places, dot, emit, load_tile, rows_of, store_tile


@triton.jit
def backward_block(
    target,
    direction,
    x,
    x_dot,
    scratch,
    below,
    weights,
    num,
    rows,
    real,
    count,
    NET: tl.constexpr,
    L: tl.constexpr,
    FIRST: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    """From the cotangent of y: those of the parameters, handed to `emit`, and of x, written to `below`.

    below: the scratch of the block before this one; not touched for the FIRST.
    """
    own = scratch + NET[L + 9] * NET[0]
    _through_units(target, direction, own, rows, real, count, NET, L, TANGENT, MODE)
    tl.debug_barrier()
    if not FIRST:
        _to_inputs(target[0], direction, own, below, rows, real, NET, L, TANGENT)
    _to_weights(target, x, x_dot, own, weights, num, rows, real, NET, L, FIRST, TANGENT, MODE)
    tl.debug_barrier()


@triton.jit
def _through_units(
    target,
    direction,
    own,
    rows,
    real,
    count,
    NET: tl.constexpr,
    L: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    """Activation, batch norm and bias: leaves the cotangent of x Wᵀ + b."""
    OUT: tl.constexpr = NET[L + 1]
    BASE: tl.constexpr = max(NET[L + 3], 0)
    SIZE: tl.constexpr = NET[0] * OUT
    OUT_TILE: tl.constexpr = NET[L + 10]
    for start in range(0, OUT, OUT_TILE):
        o = start + tl.arange(0, OUT_TILE)
        inside = o < OUT
        bar = load_tile(own + Y_BAR * SIZE, rows, o, OUT, 1, real, inside)
        bar_dot = tl.zeros_like(bar)
        if TANGENT:
            bar_dot = load_tile(own + (DERIVATIVE + Y_BAR) * SIZE, rows, o, OUT, 1, real, inside)
        bar, bar_dot = _through_activation(bar, bar_dot, own, rows, real, o, NET, L, SIZE, TANGENT)
        if NET[L + 4]:
            bar, bar_dot = _through_norm(
                bar, bar_dot, target, direction, own, rows, real, count, o, NET, L, SIZE, TANGENT, MODE
            )
        store_tile(own + LINEAR_BAR * SIZE, rows, o, OUT, bar, real, inside)
        if TANGENT:
            store_tile(own + (DERIVATIVE + LINEAR_BAR) * SIZE, rows, o, OUT, bar_dot, real, inside)
        if NET[L + 14]:
            places, added = bias_places(o, NET[L + 13], OUT, NET[L + 3] >= 0, NET[L + 15])
            emit(target, BASE + places, added, tl.sum(bar, 0), tl.sum(bar_dot, 0), MODE)


@triton.jit
def _through_activation(
    bar, bar_dot, own, rows, real, o, NET: tl.constexpr, L: tl.constexpr, SIZE: tl.constexpr, TANGENT: tl.constexpr
):
    OUT: tl.constexpr = NET[L + 1]
    if NET[L + 8] != "none":
        y = load_tile(own, rows, o, OUT, 1, real, o < OUT)
        if NET[L + 8] == "relu":
            bar = tl.where(y > 0, bar, 0.0)
            bar_dot = tl.where(y > 0, bar_dot, 0.0)
        else:
            slope = 1.0 - y * y
            if TANGENT:
                y_dot = load_tile(own + DERIVATIVE * SIZE, rows, o, OUT, 1, real, o < OUT)
                bar_dot = slope * bar_dot - 2.0 * y * y_dot * bar
            bar = slope * bar
    return bar, bar_dot


@triton.jit
def _through_norm(
    bar,
    bar_dot,
    target,
    direction,
    own,
    rows,
    real,
    count,
    o,
    NET: tl.constexpr,
    L: tl.constexpr,
    SIZE: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    OUT: tl.constexpr = NET[L + 1]
    inside = o < OUT
    hat = load_tile(own + HAT * SIZE, rows, o, OUT, 1, real, inside)
    r = tl.load(own + R * SIZE + o, mask=inside, other=0.0)
    scale = tl.zeros_like(r) + 1.0
    if NET[L + 5] >= 0:
        scale = tl.load(target[0] + NET[L + 5] + o, mask=inside, other=0.0)
    g = scale[None, :] * bar
    inner, along = projected(g, hat, count)
    x_bar = tl.where(real[:, None], r[None, :] * inner, 0.0)
    x_bar_dot = tl.zeros_like(x_bar)
    scale_bar_dot = tl.zeros_like(r)
    if TANGENT:
        hat_dot = load_tile(own + (DERIVATIVE + HAT) * SIZE, rows, o, OUT, 1, real, inside)
        r_dot = tl.load(own + R * SIZE + OUT + o, mask=inside, other=0.0)
        g_dot = scale[None, :] * bar_dot
        if NET[L + 5] >= 0:
            g_dot += tl.load(direction + NET[L + 5] + o, mask=inside, other=0.0)[None, :] * bar
        moved, _ = projected(g_dot, hat, count)
        moved -= hat_dot * along[None, :] + hat * (tl.sum(hat_dot * g, 0) / count)[None, :]
        x_bar_dot = tl.where(real[:, None], r_dot[None, :] * inner + r[None, :] * moved, 0.0)
        scale_bar_dot = tl.sum(bar_dot * hat + bar * hat_dot, 0)
    if NET[L + 5] >= 0:
        emit(target, NET[L + 5] + o, inside, tl.sum(bar * hat, 0), scale_bar_dot, MODE)
    if NET[L + 6] >= 0:
        emit(target, NET[L + 6] + o, inside, tl.sum(bar, 0), tl.sum(bar_dot, 0), MODE)
    return x_bar, x_bar_dot


@triton.jit
def _to_inputs(theta, direction, own, below, rows, real, NET: tl.constexpr, L: tl.constexpr, TANGENT: tl.constexpr):
    """x̄ = ȳ W and its derivative, into the block below, whose width is this one's IN.

    One after the other, here and in `_weight_tile`: sums that share what they load need more registers than there are.
    """
    IN: tl.constexpr = NET[L + 0]
    PRECISION: tl.constexpr = NET[6]
    OUT: tl.constexpr = NET[L + 1]
    SIZE: tl.constexpr = NET[0] * OUT
    BELOW: tl.constexpr = NET[0] * IN
    IN_TILE: tl.constexpr = NET[L + 11]
    TILE: tl.constexpr = NET[4]
    bars = own + LINEAR_BAR * SIZE
    for start in range(0, IN, IN_TILE):
        i = start + tl.arange(0, IN_TILE)
        acc = tl.zeros((rows.shape[0], IN_TILE), tl.float32)
        for first in range(0, OUT, TILE):
            o = first + tl.arange(0, TILE)
            bar = load_tile(bars, rows, o, OUT, 1, real, o < OUT)
            weight = load_tile(theta + NET[L + 2], o, i, IN, 1, o < NET[L + 13], i < IN)
            acc = dot(bar, weight, acc, PRECISION)
        store_tile(below + Y_BAR * BELOW, rows, i, IN, acc, real, i < IN)
        if TANGENT:
            acc = tl.zeros((rows.shape[0], IN_TILE), tl.float32)
            for first in range(0, OUT, TILE):
                o = first + tl.arange(0, TILE)
                bar_dot = load_tile(bars + DERIVATIVE * SIZE, rows, o, OUT, 1, real, o < OUT)
                weight = load_tile(theta + NET[L + 2], o, i, IN, 1, o < NET[L + 13], i < IN)
                acc = dot(bar_dot, weight, acc, PRECISION)
                bar = load_tile(bars, rows, o, OUT, 1, real, o < OUT)
                weight_dot = load_tile(direction + NET[L + 2], o, i, IN, 1, o < NET[L + 13], i < IN)
                acc = dot(bar, weight_dot, acc, PRECISION)
            store_tile(below + (DERIVATIVE + Y_BAR) * BELOW, rows, i, IN, acc, real, i < IN)


@triton.jit
def _to_weights(
    target,
    x,
    x_dot,
    own,
    weights,
    num,
    rows,
    real,
    NET: tl.constexpr,
    L: tl.constexpr,
    FIRST: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    """W̄ = ȳᵀ x and its derivative."""
    IN: tl.constexpr = NET[L + 0]
    OUT: tl.constexpr = NET[L + 1]
    bars = own + LINEAR_BAR * NET[0] * OUT
    bars_dot = bars + DERIVATIVE * NET[0] * OUT
    OUT_TILE: tl.constexpr = NET[L + 10]
    IN_TILE: tl.constexpr = NET[L + 11]
    for first in range(0, OUT, OUT_TILE):
        o = first + tl.arange(0, OUT_TILE)
        inside = o < OUT
        if IN <= THIN:
            bar = load_tile(bars, rows, o, OUT, 1, real, inside)
            bar_dot = tl.zeros_like(bar)
            if TANGENT:
                bar_dot = load_tile(bars_dot, rows, o, OUT, 1, real, inside)
            for i in tl.static_range(IN):
                column = tl.load(x + rows * IN + i, mask=real, other=0.0)[:, None]
                product = tl.sum(bar_dot * column, 0)
                if TANGENT and not FIRST:
                    product += tl.sum(bar * tl.load(x_dot + rows * IN + i, mask=real, other=0.0)[:, None], 0)
                emit(target, NET[L + 2] + o * IN + i, o < NET[L + 13], tl.sum(bar * column, 0), product, MODE)
        else:
            for start in range(0, IN, IN_TILE):
                i = start + tl.arange(0, IN_TILE)
                _weight_tile(
                    target, x, x_dot, bars, bars_dot, weights, num, rows.shape[0], o, i, NET, L, FIRST, TANGENT, MODE
                )


@triton.jit
def _weight_tile(
    target,
    x,
    x_dot,
    bars,
    bars_dot,
    weights,
    num,
    PADDED: tl.constexpr,
    o,
    i,
    NET: tl.constexpr,
    L: tl.constexpr,
    FIRST: tl.constexpr,
    TANGENT: tl.constexpr,
    MODE: tl.constexpr,
):
    IN: tl.constexpr = NET[L + 0]
    PRECISION: tl.constexpr = NET[6]
    OUT: tl.constexpr = NET[L + 1]
    TILE: tl.constexpr = NET[4]
    gradient = tl.zeros((o.shape[0], i.shape[0]), tl.float32)
    product = gradient
    for start in range(0, PADDED, TILE):
        rows, real = rows_of(weights, num, start, TILE, NET[3])
        values = load_tile(x, rows, i, IN, 1, real, i < IN)
        if MODE != "reverse" and MODE != "product":
            bar = load_tile(bars, o, rows, 1, OUT, o < OUT, real)  # [o, N]
            gradient = dot(bar, values, gradient, PRECISION)
        if TANGENT:
            bar_dot = load_tile(bars_dot, o, rows, 1, OUT, o < OUT, real)
            product = dot(bar_dot, values, product, PRECISION)
    if TANGENT and not FIRST:
        for start in range(0, PADDED, TILE):
            rows, real = rows_of(weights, num, start, TILE, NET[3])
            bar = load_tile(bars, o, rows, 1, OUT, o < OUT, real)
            product = dot(bar, load_tile(x_dot, rows, i, IN, 1, real, i < IN), product, PRECISION)
    offsets = NET[L + 2] + o[:, None] * IN + i[None, :]
    emit(target, offsets, (o < NET[L + 13])[:, None] & (i < IN)[None, :], gradient, product, MODE)
