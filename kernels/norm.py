"""Batch norm, activation and pooling of per-task maps, fused; one program carries one channel of one task.

Pools cover P × P windows, and windows cut by the border are dropped, as torch drops them; their elements still count in
the statistics. By the letters of docs/mathematics.md; c is the cotangent of the norm's output γ x̂ + β.
"""

import triton
import triton.language as tl

from .tiles import tanh


@triton.jit
def _unit(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        u = tl.where(u <= 0, 0.0, u)  # NaN stays NaN
    elif ACTIVATION == "tanh":
        u = tanh(u)
    return u


@triton.jit
def _windows(start, N, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """A block of windows, those cut by the border included: sample, row, column, whether real, whether whole."""
    WH: tl.constexpr = (H + P - 1) // P
    WW: tl.constexpr = (W + P - 1) // P
    at = start + tl.arange(0, B)
    n, oh, ow = at // (WH * WW), at // WW % WH, at % WW
    return n, oh, ow, n < N, (n < N) & (oh < H // P) & (ow < W // P)


@triton.jit
def _element(n, oh, ow, real, i, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr):
    """Place of element i of each window within a channel, and whether it is there."""
    h, v = oh * P + i // P, ow * P + i % P
    return n * (C * H * W) + h * W + v, real & (h < H) & (v < W)


@triton.jit
def _statistics(y, N, eps, C: tl.constexpr, HW: tl.constexpr, B: tl.constexpr):
    """Mean and r = 1/sqrt(var + eps) over all samples and places of one channel, in two passes."""
    total = tl.zeros((B,), tl.float32)
    start = 0
    while start < N * HW:
        at = start + tl.arange(0, B)
        total += tl.load(y + at // HW * (C * HW) + at % HW, mask=at < N * HW, other=0.0)
        start += B
    mean = tl.sum(total) / (N * HW)
    squares = tl.zeros((B,), tl.float32)
    start = 0
    while start < N * HW:
        at = start + tl.arange(0, B)
        value = tl.load(y + at // HW * (C * HW) + at % HW, mask=at < N * HW, other=0.0)
        squares += tl.where(at < N * HW, (value - mean) * (value - mean), 0.0)
        start += B
    return mean, 1.0 / tl.sqrt_rn(tl.sum(squares) / (N * HW) + eps)


@triton.jit
def _affine(flat, stride, task, channel, SCALE: tl.constexpr, SHIFT: tl.constexpr, absent):
    """γ and β of a channel (or their derivatives), `absent` and 0 where there are none."""
    scale = absent
    shift = 0.0
    if SCALE >= 0:
        scale = tl.load(flat + task * stride + SCALE + channel)
    if SHIFT >= 0:
        shift = tl.load(flat + task * stride + SHIFT + channel)
    return scale, shift


@triton.jit(do_not_specialize=["stride", "N"])
def _forward_kernel(
    y, theta, stride, out, means, rs, N, eps, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    POOL: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, ACTIVATION: tl.constexpr,
    B: tl.constexpr,
):  # fmt: skip
    """out = pool(activation(γ x̂ + β)); keeps the mean and r of each channel."""
    task, channel = tl.program_id(1).to(tl.int64), tl.program_id(0)
    y += (task * N * C + channel) * (H * W)
    out += (task * N * C + channel) * ((H // P) * (W // P))
    mean, r = 0.0, 1.0
    scale, shift = 1.0, 0.0
    if NORM:
        mean, r = _statistics(y, N, eps, C, H * W, B)
        scale, shift = _affine(theta, stride, task, channel, SCALE, SHIFT, 1.0)
    tl.store(means + task * C + channel, mean)
    tl.store(rs + task * C + channel, r)
    start = 0
    while start < N * ((H + P - 1) // P) * ((W + P - 1) // P):
        n, oh, ow, real, whole = _windows(start, N, H, W, P, B)
        best = tl.zeros((B,), tl.float32)
        for i in tl.static_range(P * P):
            place, there = _element(n, oh, ow, real, i, C, H, W, P)
            u = _unit((tl.load(y + place, mask=there, other=0.0) - mean) * r * scale + shift, ACTIVATION)
            if POOL == "mean":
                best += u / (P * P)
            elif i == 0:
                best = u
            else:
                best = tl.where((u > best) | (u != u), u, best)
        tl.store(out + n * (C * (H // P) * (W // P)) + oh * (W // P) + ow, best, mask=whole)
        start += B


@triton.jit
def _selected(
    y, n, oh, ow, real, mean, r, scale, shift, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    ACTIVATION: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Which element of each window is its (first) maximum."""
    best = tl.zeros((B,), tl.float32)
    chosen = tl.zeros((B,), tl.int32)
    for i in tl.static_range(P * P):
        place, there = _element(n, oh, ow, real, i, C, H, W, P)
        u = _unit((tl.load(y + place, mask=there, other=0.0) - mean) * r * scale + shift, ACTIVATION)
        if i == 0:
            best = u
        else:
            chosen = tl.where(u > best, i, chosen)
            best = tl.where(u > best, u, best)
    return chosen


@triton.jit(do_not_specialize=["stride", "direction_stride", "N"])
def _tangent_kernel(
    y, y_dot, theta, direction, stride, direction_stride, out_dot, means, rs, alongs, N, C: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, POOL: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr,
    SHIFT: tl.constexpr, ACTIVATION: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Derivative of `_forward_kernel`'s output; keeps m(ẏ) and m(x̂ ẏ) in alongs [2, T, C]."""
    task, channel = tl.program_id(1).to(tl.int64), tl.program_id(0)
    tasks = tl.num_programs(1)
    base = (task * N * C + channel) * (H * W)
    y += base
    y_dot += base
    out_dot += (task * N * C + channel) * ((H // P) * (W // P))
    mean, r = tl.load(means + task * C + channel), tl.load(rs + task * C + channel)
    scale, shift = 1.0, 0.0
    scale_dot, shift_dot = 0.0, 0.0
    mean_dot, along = 0.0, 0.0
    if NORM:
        scale, shift = _affine(theta, stride, task, channel, SCALE, SHIFT, 1.0)
        scale_dot, shift_dot = _affine(direction, direction_stride, task, channel, SCALE, SHIFT, 0.0)
        sums, products = tl.zeros((B,), tl.float32), tl.zeros((B,), tl.float32)
        start = 0
        while start < N * H * W:
            at = start + tl.arange(0, B)
            place = at // (H * W) * (C * H * W) + at % (H * W)
            dot = tl.load(y_dot + place, mask=at < N * H * W, other=0.0)
            sums += dot
            products += (tl.load(y + place, mask=at < N * H * W, other=0.0) - mean) * r * dot
            start += B
        mean_dot, along = tl.sum(sums) / (N * H * W), tl.sum(products) / (N * H * W)
    tl.store(alongs + task * C + channel, mean_dot)
    tl.store(alongs + (tasks + task) * C + channel, along)
    start = 0
    while start < N * ((H + P - 1) // P) * ((W + P - 1) // P):
        n, oh, ow, real, whole = _windows(start, N, H, W, P, B)
        chosen = tl.zeros((B,), tl.int32)
        if POOL == "max":
            chosen = _selected(y, n, oh, ow, real, mean, r, scale, shift, C, H, W, P, ACTIVATION, B)
        out = tl.zeros((B,), tl.float32)
        for i in tl.static_range(P * P):
            place, there = _element(n, oh, ow, real, i, C, H, W, P)
            hat = (tl.load(y + place, mask=there, other=0.0) - mean) * r
            dot = tl.load(y_dot + place, mask=there, other=0.0)
            dot = scale * r * (dot - mean_dot - hat * along) + scale_dot * hat + shift_dot
            u = _unit(hat * scale + shift, ACTIVATION)
            if ACTIVATION == "relu":
                dot = tl.where(u > 0, dot, 0.0)
            elif ACTIVATION == "tanh":
                dot = (1.0 - u * u) * dot
            if POOL == "mean":
                out += dot / (P * P)
            else:
                out = tl.where(chosen == i, dot, out)
        tl.store(out_dot + n * (C * (H // P) * (W // P)) + oh * (W // P) + ow, out, mask=whole)
        start += B


@triton.jit
def _cotangents(
    y, y_dot, out_bar, out_bar_dot, n, oh, ow, real, whole, chosen, i, mean, r, mean_dot, along, scale, shift,
    scale_dot, shift_dot, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr, POOL: tl.constexpr,
    ACTIVATION: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Of element i of each window: its place, whether it is there, x̂, its derivative, c and ċ."""
    place, there = _element(n, oh, ow, real, i, C, H, W, P)
    hat = tl.where(there, (tl.load(y + place, mask=there, other=0.0) - mean) * r, 0.0)
    passes = whole & ((chosen == i) | (POOL == "mean"))
    share = 1.0 / (P * P) if POOL == "mean" else 1.0
    pooled = n * (C * (H // P) * (W // P)) + oh * (W // P) + ow
    c = share * tl.load(out_bar + pooled, mask=passes, other=0.0)
    c_dot = tl.zeros_like(c)
    hat_dot = tl.zeros_like(c)
    if TANGENT:
        c_dot = share * tl.load(out_bar_dot + pooled, mask=passes, other=0.0)
        dot = tl.load(y_dot + place, mask=there, other=0.0)
        hat_dot = tl.where(there, r * (dot - mean_dot - hat * along), 0.0)
    u = _unit(hat * scale + shift, ACTIVATION)
    if ACTIVATION == "relu":
        c = tl.where(u > 0, c, 0.0)
        c_dot = tl.where(u > 0, c_dot, 0.0)
    elif ACTIVATION == "tanh":
        slope = 1.0 - u * u
        u_dot = slope * (scale * hat_dot + scale_dot * hat + shift_dot)
        c_dot = slope * c_dot - 2.0 * u * u_dot * c
        c = slope * c
    return place, there, hat, hat_dot, c, c_dot


@triton.jit(do_not_specialize=["stride", "direction_stride", "split_stride", "SIZE", "N"])
def _backward_kernel(
    y, y_dot, out_bar, out_bar_dot, theta, direction, stride, direction_stride, y_bar, y_bar_dot, gradient, means, rs,
    alongs, split_stride, SIZE, N, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, P: tl.constexpr,
    POOL: tl.constexpr, NORM: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, ACTIVATION: tl.constexpr,
    TANGENT: tl.constexpr, SPLITS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """ȳ of the map, γ̄ and β̄ into gradient [S, T, P]; with TANGENT the derivatives of all three, and ȳ stays."""
    task, channel = tl.program_id(1).to(tl.int64), tl.program_id(0)
    tasks = tl.num_programs(1)
    base = (task * N * C + channel) * (H * W)
    y += base
    y_dot += base
    pooled = (task * N * C + channel) * ((H // P) * (W // P))
    out_bar += pooled
    out_bar_dot += pooled
    mean, r = tl.load(means + task * C + channel), tl.load(rs + task * C + channel)
    scale, shift = 1.0, 0.0
    scale_dot, shift_dot = 0.0, 0.0
    mean_dot, along = 0.0, 0.0
    if NORM:
        scale, shift = _affine(theta, stride, task, channel, SCALE, SHIFT, 1.0)
    if TANGENT:
        if NORM:
            scale_dot, shift_dot = _affine(direction, direction_stride, task, channel, SCALE, SHIFT, 0.0)
        mean_dot = tl.load(alongs + task * C + channel)
        along = tl.load(alongs + (tasks + task) * C + channel)
    COUNT: tl.constexpr = ((H + P - 1) // P) * ((W + P - 1) // P)
    zeros = tl.zeros((B,), tl.float32)
    sum_c, sum_hat_c, sum_dot, sum_hat_dot = zeros, zeros, zeros, zeros
    c_mean, c_along, dot_mean, dot_along = 0.0, 0.0, 0.0, 0.0
    size = N * H * W
    # first the sums that batch norm needs of all cotangents, then what becomes of each
    for sweep in tl.static_range(0 if NORM else 1, 2):
        start = 0
        while start < N * COUNT:
            n, oh, ow, real, whole = _windows(start, N, H, W, P, B)
            chosen = tl.zeros((B,), tl.int32)
            if POOL == "max":
                chosen = _selected(y, n, oh, ow, real, mean, r, scale, shift, C, H, W, P, ACTIVATION, B)
            for i in tl.static_range(P * P):
                place, there, hat, hat_dot, c, c_dot = _cotangents(
                    y, y_dot, out_bar, out_bar_dot, n, oh, ow, real, whole, chosen, i, mean, r, mean_dot, along, scale,
                    shift, scale_dot, shift_dot, C, H, W, P, POOL, ACTIVATION, TANGENT,
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
                        value_dot = scale * r * moved + scale_dot * r * inner - r * r * along * scale * inner
                    if TANGENT:
                        tl.store(y_bar_dot + base + place, value_dot, mask=there)
                    else:
                        tl.store(y_bar + base + place, value, mask=there)
            start += B
        if sweep == 0:
            c_mean, c_along = tl.sum(sum_c) / size, tl.sum(sum_hat_c) / size
            dot_mean, dot_along = tl.sum(sum_dot) / size, tl.sum(sum_hat_dot) / size
    if NORM:
        for split in tl.static_range(SPLITS):
            own = gradient + split * split_stride + task * SIZE + channel
            share = size if split == 0 else 0
            if SCALE >= 0:
                tl.store(own + SCALE, share * (dot_along if TANGENT else c_along))
            if SHIFT >= 0:
                tl.store(own + SHIFT, share * (dot_mean if TANGENT else c_mean))
