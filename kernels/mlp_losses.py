"""Losses of one task with sample weights: the value, the cotangent of the outputs, and its derivative."""

import triton
import triton.language as tl

from .mlp_forward import DERIVATIVE, Y_BAR


@triton.jit
def loss_block(
    scratch, y, weights, num, total, PADDED: tl.constexpr, NET: tl.constexpr, L: tl.constexpr, TANGENT: tl.constexpr
):
    """The weighted mean loss of outputs [N, OUT] that the last block left; writes ȳ, and with TANGENT its derivative.

    y: targets [N, OUT] or int64 labels [N]; weights: [N]; total: their sum, or N without.
    """
    OUT: tl.constexpr = NET[L + 1]
    SIZE: tl.constexpr = NET[0] * OUT
    own = scratch + NET[L + 9] * NET[0]
    o = tl.arange(0, NET[L + 12])
    loss = 0.0
    for start in range(0, PADDED, NET[5]):
        rows = start + tl.arange(0, NET[5])
        share = tl.where(rows < num, 1.0, 0.0)
        if NET[3]:
            share = tl.load(weights + rows, mask=rows < num, other=0.0)
        share = share / total
        mask = (share > 0)[:, None] & (o < OUT)[None, :]
        offsets = rows[:, None] * OUT + o[None, :]
        outputs = tl.load(own + offsets, mask=mask, other=0.0)
        derivative = tl.zeros_like(outputs)
        if TANGENT:
            derivative = tl.load(own + DERIVATIVE * SIZE + offsets, mask=mask, other=0.0)
        if NET[2] == "mse":
            error = outputs - tl.load(y + offsets, mask=mask, other=0.0)
            factor = (2.0 / OUT) * share[:, None]
            loss += tl.sum(tl.sum(error * error, 1) * share) / OUT
            bar, bar_dot = factor * error, factor * derivative
        else:
            labels = tl.load(y + rows, mask=share > 0, other=0)
            outputs = tl.where((o < OUT)[None, :], outputs, float("-inf"))
            shifted = outputs - tl.max(outputs, 1)[:, None]
            powers = tl.exp(shifted)
            sums = tl.sum(powers, 1)
            hit = o[None, :] == labels[:, None]
            loss += tl.sum(tl.where(share > 0, tl.log(sums) - tl.sum(tl.where(hit, shifted, 0.0), 1), 0.0) * share)
            p = powers / sums[:, None]
            bar = share[:, None] * (p - tl.where(hit, 1.0, 0.0))
            bar_dot = share[:, None] * p * (derivative - tl.sum(p * derivative, 1)[:, None])
        tl.store(own + Y_BAR * SIZE + offsets, bar, mask=mask)
        if TANGENT:
            tl.store(own + (DERIVATIVE + Y_BAR) * SIZE + offsets, bar_dot, mask=mask)
    tl.debug_barrier()
    return loss
