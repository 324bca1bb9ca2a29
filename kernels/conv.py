"""Per-task convolutions as implicit matrix products, the task being the outermost dimension of the grid.

Maps are [T, N, C, H, W]; the weights of task t are [Co, Ci, K, K] at weights + t · stride, stride 0 where tasks share
them. A tangent is a sum of two products, so each kernel takes up to two pairs of operands (PAIRS).
"""

import triton
import triton.language as tl

from .tiles import bias_places, dot


@triton.jit(do_not_specialize=["w_stride", "w2_stride", "bias_stride", "N"])
def _forward_kernel(
    x, w, x2, w2, bias, y, w_stride, w2_stride, bias_stride, N, CI: tl.constexpr, CO: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr, PAD: tl.constexpr,
    ROWS: tl.constexpr, BIAS: tl.constexpr, APPEND: tl.constexpr, PAIRS: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = x ⋆ w (+ x2 ⋆ w2) (+ bias): [BM positions, BN outputs] of one task."""
    task = tl.program_id(2).to(tl.int64)
    at = tl.program_id(0) * BM + tl.arange(0, BM)
    co = tl.program_id(1) * BN + tl.arange(0, BN)
    n, oh, ow = at // (OH * OW), at // OW % OH, at % OW
    inside = n < N
    acc = tl.zeros((BM, BN), tl.float32)
    for pair in tl.static_range(PAIRS):
        maps = (x if pair == 0 else x2) + task * N * CI * H * W
        weights = (w + task * w_stride) if pair == 0 else (w2 + task * w2_stride)
        for start in range(0, CI * K * K, BK):
            r = start + tl.arange(0, BK)
            ci, kh, kw = r // (K * K), r // K % K, r % K
            h = oh[:, None] * STEP - PAD + kh[None, :]
            v = ow[:, None] * STEP - PAD + kw[None, :]
            mask = inside[:, None] & (ci < CI)[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            left = tl.load(maps + (n[:, None] * CI + ci[None, :]) * (H * W) + h * W + v, mask=mask, other=0.0)
            mask = (ci < CI)[:, None] & (co < ROWS)[None, :]
            right = tl.load(weights + co[None, :] * (CI * K * K) + r[:, None], mask=mask, other=0.0)
            acc = dot(left, right, acc, PRECISION)
    if BIAS or ROWS < CO:
        places, added = bias_places(co, ROWS, CO, BIAS, APPEND)
        acc += tl.load(bias + task * bias_stride + places, mask=added, other=0.0)[None, :]
    place = (n[:, None] * CO + co[None, :]) * (OH * OW) + (oh * OW + ow)[:, None]
    tl.store(y + task * N * CO * OH * OW + place, acc, mask=inside[:, None] & (co < CO)[None, :])


@triton.jit
def _input_tile(
    tile, task, y_bar, w, y_bar2, w2, x_bar, w_stride, w2_stride, N, CI: tl.constexpr, CO: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr,
    PAD: tl.constexpr, ROWS: tl.constexpr, PAIRS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """x̄ = ȳ ⋆ᵀ w (+ ȳ2 ⋆ᵀ w2): [BM positions of the input, BN input channels]."""
    blocks = tl.cdiv(CI, BN)
    at = tile // blocks * BM + tl.arange(0, BM)
    ci = tile % blocks * BN + tl.arange(0, BN)
    n, h, v = at // (H * W), at // W % H, at % W
    inside = n < N
    acc = tl.zeros((BM, BN), tl.float32)
    for pair in tl.static_range(PAIRS):
        bars = (y_bar if pair == 0 else y_bar2) + task * N * CO * OH * OW
        weights = (w + task * w_stride) if pair == 0 else (w2 + task * w2_stride)
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
    tile, task, y_bar, x, y_bar2, x2, gradient, bias_gradient, split_stride, SIZE, N, CI: tl.constexpr,
    CO: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, K: tl.constexpr,
    STEP: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr, BIAS: tl.constexpr, APPEND: tl.constexpr,
    SPLITS: tl.constexpr, PAIRS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """w̄ = ȳᵀ x (+ ȳ2ᵀ x2): [BN outputs, BN of (ci, kh, kw)], over every SPLITS-th chunk of BK positions."""
    blocks = tl.cdiv(CI * K * K, BN)
    split, tile = tile % SPLITS, tile // SPLITS
    co = tile // blocks * BN + tl.arange(0, BN)
    r = tile % blocks * BN + tl.arange(0, BN)
    ci, kh, kw = r // (K * K), r // K % K, r % K
    acc = tl.zeros((BN, BN), tl.float32)
    sums = tl.zeros((BN,), tl.float32)
    for pair in tl.static_range(PAIRS):
        bars = (y_bar if pair == 0 else y_bar2) + task * N * CO * OH * OW
        maps = (x if pair == 0 else x2) + task * N * CI * H * W
        start = split * BK
        while start < N * OH * OW:
            at = start + tl.arange(0, BK)
            n, oh, ow = at // (OH * OW), at // OW % OH, at % OW
            place = (n[None, :] * CO + co[:, None]) * (OH * OW) + (oh * OW + ow)[None, :]
            bar = tl.load(bars + place, mask=(co < CO)[:, None] & (n < N)[None, :], other=0.0)
            h = oh[:, None] * STEP - PAD + kh[None, :]
            v = ow[:, None] * STEP - PAD + kw[None, :]
            mask = (n < N)[:, None] & (ci < CI)[None, :] & (h >= 0) & (h < H) & (v >= 0) & (v < W)
            value = tl.load(maps + (n[:, None] * CI + ci[None, :]) * (H * W) + h * W + v, mask=mask, other=0.0)
            acc = dot(bar, value, acc, PRECISION)
            if (BIAS or ROWS < CO) and pair == 0:
                sums += tl.sum(bar, 1)
            start += BK * SPLITS
    own = split * split_stride + task * SIZE
    mask = (co < ROWS)[:, None] & (ci < CI)[None, :]
    tl.store(gradient + own + co[:, None] * (CI * K * K) + r[None, :], acc, mask=mask)
    if BIAS or ROWS < CO:
        places, added = bias_places(co, ROWS, CO, BIAS, APPEND)
        first = co * 0 + tile % blocks == 0  # as a vector: the interpreter of triton 3.9 takes no scalar mask
        tl.store(bias_gradient + own + places, sums, mask=added & first)


@triton.jit(do_not_specialize=["w_stride", "w2_stride", "split_stride", "SIZE", "N", "weight_tiles"])
def _backward_kernel(
    y_bar, x, w, y_bar2, x2, w2, x_bar, gradient, bias_gradient, w_stride, w2_stride, split_stride, SIZE, N,
    weight_tiles, CI: tl.constexpr, CO: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr,
    OW: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr, PAD: tl.constexpr, ROWS: tl.constexpr,
    BIAS: tl.constexpr, APPEND: tl.constexpr, SPLITS: tl.constexpr, WEIGHT_PAIRS: tl.constexpr,
    INPUT_PAIRS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Weight gradient and input gradient in one launch: the first `weight_tiles` programs of a task do the former."""
    task = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    if tile < weight_tiles:
        _weight_tile(
            tile, task, y_bar, x, y_bar2, x2, gradient, bias_gradient, split_stride, SIZE, N, CI, CO, H, W, OH, OW, K,
            STEP, PAD, ROWS, BIAS, APPEND, SPLITS, WEIGHT_PAIRS, BN, BK, PRECISION,
        )  # fmt: skip
    elif INPUT_PAIRS > 0:
        _input_tile(
            tile - weight_tiles, task, y_bar, w, y_bar2, w2, x_bar, w_stride, w2_stride, N, CI, CO, H, W, OH, OW, K,
            STEP, PAD, ROWS, INPUT_PAIRS, BM, BN, BK, PRECISION,
        )  # fmt: skip
