"""The loss of one task of a fully connected network."""

import triton
import triton.language as tl

from .losses import loss_rows, partners
from .mlp_forward import DERIVATIVE, Y_BAR


@triton.jit
def loss_block(
    scratch, y, weights, num, total, PADDED: tl.constexpr, NET: tl.constexpr, L: tl.constexpr, TANGENT: tl.constexpr
):
    """The weighted mean loss of outputs [N, OUT] that the last block left; writes ȳ, and with TANGENT its derivative.

    y: targets [N, OUT] or int64 labels [N]; weights: [N]; total: their sum, or N without.
    """
    OUT: tl.constexpr = NET[L + 1]
    LOSS: tl.constexpr = NET[2]
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
        partner, partner_dot = outputs, derivative
        if LOSS == "gaussian":
            other = rows[:, None] * OUT + partners(o, OUT)[None, :]
            partner = tl.load(own + other, mask=mask, other=0.0)
            if TANGENT:
                partner_dot = tl.load(own + DERIVATIVE * SIZE + other, mask=mask, other=0.0)
        part, bar, bar_dot = loss_rows(outputs, derivative, partner, partner_dot, y, rows, o, share, OUT, LOSS)
        loss += part
        tl.store(own + Y_BAR * SIZE + offsets, bar, mask=mask)
        if TANGENT:
            tl.store(own + (DERIVATIVE + Y_BAR) * SIZE + offsets, bar_dot, mask=mask)
    tl.debug_barrier()
    return loss
