"""Per-task convolutions as implicit matrix products, the task being the outermost dimension of the grid.

Maps are [T, N, C, H, W]; the weights of task t are [Co, Ci, K, K] at theta + t · stride + WEIGHT, stride 0 where tasks
share them. A tangent is a sum of two products, so each kernel takes up to two pairs of operands (PAIRS).

What a layer reads may be maps y that a unit is still to be applied to (UNIT): norm and activation happen as values are
loaded. Whose maps a batch norm follows takes their moments on the way (MOMENTS), and the last program ends them.
"""

import triton
import triton.language as tl

from .moments import (
    finish_moments,
    folded_rows,
    is_last,
    store_parts,
    tangent_moments,
    through_unit,
    tile_moments,
    unit_terms,
)
from .tiles import bias_places, dot, hand_out


@triton.jit
def _read(x, x_dot, place, mask, terms, UNIT: tl.constexpr, IN_ACTIVATION: tl.constexpr, TANGENT: tl.constexpr):
    """x, or with TANGENT ẋ, zero outside the mask."""
    if UNIT:
        value = tl.load(x + place, mask=mask, other=0.0)
        value_dot = value
        if TANGENT:
            value_dot = tl.load(x_dot + place, mask=mask, other=0.0)
        value, value_dot = through_unit(value, value_dot, terms, IN_ACTIVATION, TANGENT)
        value = tl.where(mask, value_dot if TANGENT else value, 0.0)
    else:
        value = tl.load((x_dot if TANGENT else x) + place, mask=mask, other=0.0)
    return value


@triton.jit
def _product_tile(
    x, x_dot, first, second, theta, direction, read, n, oh, ow, inside, co, CI: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr, WEIGHT: tl.constexpr,
    UNIT: tl.constexpr, IN_C: tl.constexpr, AREA: tl.constexpr, IN_NORM: tl.constexpr, IN_SCALE: tl.constexpr,
    IN_SHIFT: tl.constexpr, IN_ACTIVATION: tl.constexpr, PAIRS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x ⋆ first (+ ẋ ⋆ second): [BM positions, BN outputs] of one task; read: statistics of the maps below."""
    acc = tl.zeros((BM, BN), tl.float32)
    for pair in tl.static_range(PAIRS):
        for start in range(0, CI * K * K, BK):
            r = start + tl.arange(0, BK)
            ci, kh, kw = r // (K * K), r // K % K, r % K
            h = oh[:, None] * STEP - PAD + kh[None, :]
            v = ow[:, None] * STEP - PAD + kw[None, :]
            mask = inside[:, None] & (ci < CI)[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            place = (n[:, None] * CI + ci[None, :]) * (H * W) + h * W + v
            terms = unit_terms(
                read, theta, direction, ci // AREA, ci < CI, IN_C, IN_NORM, IN_SCALE, IN_SHIFT, pair == 1
            )  # fmt: skip
            left = _read(x, x_dot, place, mask, folded_rows(terms), UNIT, IN_ACTIVATION, pair == 1)
            place = WEIGHT + co[None, :] * (CI * K * K) + r[:, None]
            weights = tl.load(
                (first if pair == 0 else second) + place, mask=(ci < CI)[:, None] & (co < ROWS)[None, :], other=0.0
            )  # fmt: skip
            acc = dot(left, weights, acc, PRECISION)
    return acc


@triton.jit(do_not_specialize=["theta_stride", "direction_stride", "N"])
def _forward_kernel(
    x, x_dot, theta, direction, y, y_dot, read, statistics, parts, counters, theta_stride, direction_stride, N, eps,
    CI: tl.constexpr, CO: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    K: tl.constexpr, STEP: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, APPEND: tl.constexpr, UNIT: tl.constexpr, IN_C: tl.constexpr, AREA: tl.constexpr,
    IN_NORM: tl.constexpr, IN_SCALE: tl.constexpr, IN_SHIFT: tl.constexpr, IN_ACTIVATION: tl.constexpr,
    TANGENT: tl.constexpr, PAIRS: tl.constexpr, MOMENTS: tl.constexpr, AT_ONCE: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = x ⋆ w + bias, or with TANGENT ẏ = x ⋆ ẇ (+ ẋ ⋆ w) + ḃ; of MOMENTS those of y, or of ẏ beside y."""
    task, blocks = tl.program_id(2).to(tl.int64), tl.num_programs(0)
    co = tl.program_id(1) * BN + tl.arange(0, BN)
    own = task * N * CO * OH * OW
    theta += task * theta_stride
    direction += task * direction_stride
    read += task * 4 * IN_C
    statistics += task * 4 * CO
    at = tl.program_id(0) * BM + tl.arange(0, BM)
    n, oh, ow = at // (OH * OW), at // OW % OH, at % OW
    inside = n < N
    acc = _product_tile(
        x + task * N * CI * H * W, x_dot + task * N * CI * H * W, direction if TANGENT else theta, theta, theta,
        direction, read, n, oh, ow, inside, co, CI, H, W, K, STEP, PAD, ROWS, WEIGHT, UNIT, IN_C, AREA, IN_NORM,
        IN_SCALE, IN_SHIFT, IN_ACTIVATION, PAIRS, BM, BN, BK, PRECISION,
    )  # fmt: skip
    if BIAS >= 0 or ROWS < CO:
        places, added = bias_places(co, ROWS, CO, BIAS >= 0, APPEND - max(BIAS, 0))
        bias = (direction if TANGENT else theta) + max(BIAS, 0)
        acc += tl.load(bias + places, mask=added, other=0.0)[None, :]
    place = own + (n[:, None] * CO + co[None, :]) * (OH * OW) + (oh * OW + ow)[:, None]
    mask = inside[:, None] & (co < CO)[None, :]
    tl.store((y_dot if TANGENT else y) + place, acc, mask=mask)
    if MOMENTS:
        if TANGENT:
            y_mean = tl.load(statistics + co, mask=co < CO, other=0.0)
            r = tl.load(statistics + CO + co, mask=co < CO, other=0.0)
            hat = (tl.load(y + place, mask=mask, other=0.0) - y_mean[None, :]) * r[None, :]
            count, first, second = tangent_moments(acc, hat, inside)
        else:
            count, first, second = tile_moments(acc, inside)
        parts += task * blocks * 3 * CO
        store_parts(parts + tl.program_id(0) * 3 * CO, count, first, second, co, CO)
        if AT_ONCE:
            counter = counters + task * tl.num_programs(1) + tl.program_id(1)
            if is_last(counter, blocks):
                finish_moments(parts, statistics, blocks, N * OH * OW, eps, co, CO, BN, TANGENT)


@triton.jit
def _input_tile(
    tile, task, y_bar, w, y_bar2, w2, x_bar, N, CI: tl.constexpr, CO: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    OH: tl.constexpr, OW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr,
    PAIRS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x̄ = ȳ ⋆ᵀ w (+ ȳ2 ⋆ᵀ w2): [BM positions of the input, BN input channels]; w, w2 of one task."""
    blocks = tl.cdiv(CI, BN)
    at = tile // blocks * BM + tl.arange(0, BM)
    ci = tile % blocks * BN + tl.arange(0, BN)
    n, h, v = at // (H * W), at // W % H, at % W
    inside = n < N
    acc = tl.zeros((BM, BN), tl.float32)
    for pair in tl.static_range(PAIRS):
        bars = (y_bar if pair == 0 else y_bar2) + task * N * CO * OH * OW
        weights = w if pair == 0 else w2
        for start in range(0, CO * K * K, BK):
            r = start + tl.arange(0, BK)
            co, kh, kw = r // (K * K), r // K % K, r % K
            up = h[:, None] + PAD - kh[None, :]
            left = v[:, None] + PAD - kw[None, :]
            oh, ow = up // STEP, left // STEP
            mask = inside[:, None] & (co < CO)[None, :] & (up >= 0) & (left >= 0) & (oh < OH) & (ow < OW)
            mask = mask & (up % STEP == 0) & (left % STEP == 0)
            bar = tl.load(bars + (n[:, None] * CO + co[None, :]) * (OH * OW) + oh * OW + ow, mask=mask, other=0.0)
            place = (co[:, None] * CI + ci[None, :]) * (K * K) + (kh * K + kw)[:, None]
            weight = tl.load(weights + place, mask=(co < ROWS)[:, None] & (ci < CI)[None, :], other=0.0)
            acc = dot(bar, weight, acc, PRECISION)
    place = (n[:, None] * CI + ci[None, :]) * (H * W) + (h * W + v)[:, None]
    tl.store(x_bar + task * N * CI * H * W + place, acc, mask=inside[:, None] & (ci < CI)[None, :])


@triton.jit
def _weight_tile(
    tile, y_bar, x, y_bar2, x2, theta, direction, read, sink, split_stride, N, CI: tl.constexpr, CO: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr,
    PAD: tl.constexpr, ROWS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, APPEND: tl.constexpr,
    UNIT: tl.constexpr, IN_C: tl.constexpr, AREA: tl.constexpr, IN_NORM: tl.constexpr, IN_SCALE: tl.constexpr,
    IN_SHIFT: tl.constexpr, IN_ACTIVATION: tl.constexpr, MODE: tl.constexpr, SPLITS: tl.constexpr, PAIRS: tl.constexpr,
    WN: tl.constexpr, WR: tl.constexpr, WK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w̄ = ȳᵀ x (+ ȳ2ᵀ ẋ): [WN outputs, WR of (ci, kh, kw)], over every SPLITS-th chunk of WK positions.

    All pointers are of one task.
    """
    blocks = tl.cdiv(CI * K * K, WR)
    split, tile = tile % SPLITS, tile // SPLITS
    co = tile // blocks * WN + tl.arange(0, WN)
    r = tile % blocks * WR + tl.arange(0, WR)
    ci, kh, kw = r // (K * K), r // K % K, r % K
    acc = tl.zeros((WN, WR), tl.float32)
    sums = tl.zeros((WN,), tl.float32)
    for pair in tl.static_range(PAIRS):
        terms = unit_terms(
            read, theta, direction, ci // AREA, ci < CI, IN_C, IN_NORM, IN_SCALE, IN_SHIFT, pair == 1
        )  # fmt: skip
        start = split * WK
        while start < N * OH * OW:
            at = start + tl.arange(0, WK)
            n, oh, ow = at // (OH * OW), at // OW % OH, at % OW
            place = (n[None, :] * CO + co[:, None]) * (OH * OW) + (oh * OW + ow)[None, :]
            there = (co < CO)[:, None] & (n < N)[None, :]
            bar = tl.load((y_bar if pair == 0 else y_bar2) + place, mask=there, other=0.0)
            h = oh[:, None] * STEP - PAD + kh[None, :]
            v = ow[:, None] * STEP - PAD + kw[None, :]
            mask = (n < N)[:, None] & (ci < CI)[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            place = (n[:, None] * CI + ci[None, :]) * (H * W) + h * W + v
            value = _read(x, x2, place, mask, folded_rows(terms), UNIT, IN_ACTIVATION, pair == 1)
            acc = dot(bar, value, acc, PRECISION)
            if (BIAS >= 0 or ROWS < CO) and pair == 0:
                sums += tl.sum(bar, 1)
            start += WK * SPLITS
    gradient, rates, target, along = sink
    sink = (gradient, rates, target + split * split_stride, along)
    mask = (co < ROWS)[:, None] & (ci < CI)[None, :]
    hand_out(acc, WEIGHT + co[:, None] * (CI * K * K) + r[None, :], mask, sink, MODE)
    if BIAS >= 0 or ROWS < CO:
        places, added = bias_places(co, ROWS, CO, BIAS >= 0, APPEND - max(BIAS, 0))
        first = co * 0 + tile % blocks == 0  # as a vector: the interpreter of triton 3.9 takes no scalar mask
        hand_out(sums, max(BIAS, 0) + places, added & first, sink, MODE)


_COUNTS = ["theta_stride", "direction_stride", "source_stride", "split_stride", "LOW", "SIZE", "N", "weight_tiles"]


@triton.jit(do_not_specialize=_COUNTS)
def _backward_kernel(
    y_bar, x, y_bar2, x2, theta, direction, read, x_bar, source, rates, target, along, theta_stride, direction_stride,
    source_stride, split_stride, LOW, SIZE, N, weight_tiles, CI: tl.constexpr, CO: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr, PAD: tl.constexpr,
    ROWS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, APPEND: tl.constexpr, UNIT: tl.constexpr,
    IN_C: tl.constexpr, AREA: tl.constexpr, IN_NORM: tl.constexpr, IN_SCALE: tl.constexpr, IN_SHIFT: tl.constexpr,
    IN_ACTIVATION: tl.constexpr, MODE: tl.constexpr, SPLITS: tl.constexpr, WEIGHT_PAIRS: tl.constexpr,
    INPUT_PAIRS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WN: tl.constexpr,
    WR: tl.constexpr, WK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weight gradient and input gradient in one launch: the first `weight_tiles` programs of a task do the former.

    The target of a task is [SIZE], parameters from LOW on; that of a split lies split_stride further.
    """
    task = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    theta += task * theta_stride
    direction += task * direction_stride
    if tile < weight_tiles:
        sink = (source + task * source_stride, rates, target + task * SIZE - LOW, along + task * SIZE)
        bars, maps = task * N * CO * OH * OW, task * N * CI * H * W
        _weight_tile(
            tile, y_bar + bars, x + maps, y_bar2 + bars, x2 + maps, theta, direction, read + task * 4 * IN_C, sink,
            split_stride, N, CI, CO, H, W, OH, OW, K, STEP, PAD, ROWS, WEIGHT, BIAS, APPEND, UNIT, IN_C, AREA, IN_NORM,
            IN_SCALE, IN_SHIFT, IN_ACTIVATION, MODE, SPLITS, WEIGHT_PAIRS, WN, WR, WK, PRECISION,
        )  # fmt: skip
    elif INPUT_PAIRS > 0:
        _input_tile(
            tile - weight_tiles, task, y_bar, theta + WEIGHT, y_bar2, direction + WEIGHT, x_bar, N, CI, CO, H, W, OH,
            OW, K, STEP, PAD, ROWS, INPUT_PAIRS, BM, BN, BK, PRECISION,
        )  # fmt: skip
