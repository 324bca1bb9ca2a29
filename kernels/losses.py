"""Losses with sample weights: the value, the cotangent of the outputs, and its derivative."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


@triton.jit
def partners(o, OUT: tl.constexpr):
    """Of a Gaussian's OUT outputs, means and then log_stds, the place of the other of the pair."""
    return tl.where(o < OUT // 2, o + OUT // 2, o - OUT // 2)


@triton.jit
def _gaussian_rows(outputs, derivative, partner, partner_dot, y, rows, o, share, mask, OUT: tl.constexpr):
    """See `fastmaml.losses.gaussian`; y: centre, spread, scale [N, OUT + 1]."""
    HALF: tl.constexpr = OUT // 2
    of_mean = (o < HALF)[None, :]
    base = y + rows[:, None] * (OUT + 1)
    dimension = tl.where(o < HALF, o, o - HALF)[None, :]
    centre = tl.load(base + dimension, mask=mask, other=0.0)
    spread = tl.load(base + HALF + dimension, mask=mask, other=0.0)
    factor = tl.load(base + OUT + 0 * dimension, mask=mask, other=0.0) * share[:, None]
    error = tl.where(of_mean, outputs, partner) - centre
    error_dot = tl.where(of_mean, derivative, partner_dot)
    log_std, log_std_dot = tl.where(of_mean, partner, outputs), tl.where(of_mean, partner_dot, derivative)
    precision = tl.exp(-2.0 * log_std)
    square = (spread + error * error) * precision
    surprise = 0.9189385332046727 + log_std + 0.5 * square  # log(2π) / 2
    loss = tl.sum(tl.sum(tl.where(of_mean & mask, factor * surprise, 0.0), 1))
    bar = factor * tl.where(of_mean, error * precision, 1.0 - square)
    mean_dot = precision * (error_dot - 2.0 * error * log_std_dot)
    spread_dot = 2.0 * (square * log_std_dot - error * error_dot * precision)
    return loss, bar, factor * tl.where(of_mean, mean_dot, spread_dot)


@triton.jit
def loss_rows(outputs, derivative, partner, partner_dot, y, rows, o, share, OUT: tl.constexpr, LOSS: tl.constexpr):
    """Of some rows [R, o] of outputs: their part of the loss, ȳ, and its derivative along that of the outputs.

    y: targets [N, OUT], of a Gaussian [N, OUT + 1], or int64 labels [N] of the task; share [R]: weight over the sum of
    weights, 0 for padding; partner: of a Gaussian, the outputs at `partners`.
    """
    mask = (share > 0)[:, None] & (o < OUT)[None, :]
    if LOSS == "mse":
        error = outputs - tl.load(y + rows[:, None] * OUT + o[None, :], mask=mask, other=0.0)
        factor = (2.0 / OUT) * share[:, None]
        loss = tl.sum(tl.sum(error * error, 1) * share) / OUT
        bar, bar_dot = factor * error, factor * derivative
    elif LOSS == "gaussian":
        loss, bar, bar_dot = _gaussian_rows(outputs, derivative, partner, partner_dot, y, rows, o, share, mask, OUT)
    elif LOSS == "categorical":
        targets = tl.load(y + rows[:, None] * OUT + o[None, :], mask=mask, other=0.0)
        outputs = tl.where((o < OUT)[None, :], outputs, float("-inf"))
        shifted = outputs - tl.max(outputs, 1)[:, None]
        powers = tl.exp(shifted)
        sums = tl.sum(powers, 1)
        p = powers / sums[:, None]
        logs = tl.where(mask, targets * (shifted - tl.log(sums)[:, None]), 0.0)
        loss = -tl.sum(tl.where(share > 0, tl.sum(logs, 1), 0.0) * share)
        total = tl.sum(targets, 1)[:, None]
        bar = share[:, None] * (total * p - targets)
        bar_dot = share[:, None] * total * p * (derivative - tl.sum(p * derivative, 1)[:, None])
    else:
        labels = tl.load(y + rows, mask=share > 0, other=0)
        outputs = tl.where((o < OUT)[None, :], outputs, float("-inf"))
        shifted = outputs - tl.max(outputs, 1)[:, None]
        powers = tl.exp(shifted)
        sums = tl.sum(powers, 1)
        hit = o[None, :] == labels[:, None]
        loss = tl.sum(tl.where(share > 0, tl.log(sums) - tl.sum(tl.where(hit, shifted, 0.0), 1), 0.0) * share)
        p = powers / sums[:, None]
        bar = share[:, None] * (p - tl.where(hit, 1.0, 0.0))
        bar_dot = share[:, None] * p * (derivative - tl.sum(p * derivative, 1)[:, None])
    return loss, bar, bar_dot


@triton.jit
def sum_of_weights(weights, N, WEIGHTED: tl.constexpr, CHUNK: tl.constexpr):
    """Of one task's N samples, loaded CHUNK at a time; N itself where they have none."""
    total = N * 1.0  # not N.to(): a 1 is a constant to Triton
    if WEIGHTED:
        total = 0.0
        start = 0
        while start < N:
            rows = start + tl.arange(0, CHUNK)
            total += tl.sum(tl.load(weights + rows, mask=rows < N, other=0.0))
            start += CHUNK
    return total


@triton.jit(do_not_specialize=["loss_stride", "N", "y_stride"])
def _loss_kernel(
    outputs, outputs_dot, y, weights, losses, loss_stride, bars, N, y_stride, OUT: tl.constexpr, PADDED: tl.constexpr,
    CHUNK: tl.constexpr, LOSS: tl.constexpr, WEIGHTED: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    """Mean loss of one task, and its cotangent in bars [T, N, OUT]; with TANGENT the derivative of that instead."""
    task = tl.program_id(0).to(tl.int64)
    o = tl.arange(0, PADDED)
    total = sum_of_weights(weights + task * N, N, WEIGHTED, CHUNK)
    loss = 0.0
    start = 0
    while start < N:
        rows = start + tl.arange(0, CHUNK)
        share = tl.where(rows < N, 1.0, 0.0)
        if WEIGHTED:
            share = tl.load(weights + task * N + rows, mask=rows < N, other=0.0)
        share = share / total
        place = (task * N + rows)[:, None] * OUT + o[None, :]
        inside = (rows < N)[:, None] & (o < OUT)[None, :]
        mask = (share > 0)[:, None] & inside
        values = tl.load(outputs + place, mask=mask, other=0.0)
        dots = tl.zeros_like(values)
        if TANGENT:
            dots = tl.load(outputs_dot + place, mask=mask, other=0.0)
        partner, partner_dot = values, dots
        if LOSS == "gaussian":
            other = (task * N + rows)[:, None] * OUT + partners(o, OUT)[None, :]
            partner = tl.load(outputs + other, mask=mask, other=0.0)
            if TANGENT:
                partner_dot = tl.load(outputs_dot + other, mask=mask, other=0.0)
        part, bar, bar_dot = loss_rows(
            values, dots, partner, partner_dot, y + task * y_stride, rows, o, share, OUT, LOSS
        )
        loss += part
        tl.store(bars + place, tl.where(mask, bar_dot if TANGENT else bar, 0.0), mask=inside)
        start += CHUNK
    if not TANGENT:
        tl.store(losses + task * loss_stride, loss)


def cotangent(
    outputs: Tensor, y: Tensor, weights: Tensor | None, loss: str, losses: Tensor, bars: Tensor,
    outputs_dot: Tensor | None = None,
) -> None:  # fmt: skip
    """The loss of each task into losses [T] (any stride) and its gradient by the outputs [T, N, OUT] into bars.

    With outputs_dot the derivative of that gradient along it into bars instead, and losses are left alone.
    """
    tasks, samples = outputs.shape[:2]
    out = outputs[0, 0].numel()
    padded = triton.next_power_of_2(out)
    chunk = max(1, min(64, 4096 // padded))
    _loss_kernel[(tasks,)](
        outputs, outputs if outputs_dot is None else outputs_dot, y, outputs if weights is None else weights, losses,
        losses.stride(0), bars, samples, y[0].numel(), out, padded, chunk, loss, weights is not None,
        outputs_dot is not None, **OPTIONS,
    )  # fmt: skip
