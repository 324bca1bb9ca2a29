"""The last linear layer, the loss and the way back through both, in one launch; and their derivative in another.

A program has one task and HF of the layer's features: it takes all outputs, which are few, from all features, and then
gives the gradient of the weights of its own features, and the cotangent of these. So no program waits for another.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .conv_launch import TILES, Conv, Reading
from .flat import Sink, stride
from .losses import loss_rows, sum_of_weights
from .moments import folded_rows, through_unit, unit_terms
from .tiles import dot, hand_out, load_tile, store_tile

OPTIONS: dict[str, Any] = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}
MAX_OUTPUTS = 64
"""Of wider layers the outputs are no small thing to be taken by many programs."""

MAX_WINDOW = 3
"""Widest maps that the mean is taken of here: each of their places is met one by one."""

ROWS = 32
"""Most samples that a program takes at a time."""


@triton.jit
def _features(
    x, x_dot, rows, f, there, terms, IN: tl.constexpr, PLACES: tl.constexpr, UNIT: tl.constexpr,
    IN_ACTIVATION: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """x and ẋ [rows, f] of one task; of a unit still to be applied, the mean over a map of PLACES."""
    mask = there[:, None] & (f < IN)[None, :]
    value = tl.zeros(mask.shape, tl.float32)
    value_dot = value
    for i in tl.static_range(PLACES):
        place = (rows[:, None] * IN + f[None, :]) * PLACES + i
        u = tl.load(x + place, mask=mask, other=0.0)
        u_dot = u
        if PAIRS == 2:
            u_dot = tl.load(x_dot + place, mask=mask, other=0.0)
        if UNIT:
            u, u_dot = through_unit(u, u_dot, folded_rows(terms), IN_ACTIVATION, PAIRS == 2)
        value += tl.where(mask, u, 0.0) / PLACES
        value_dot += tl.where(mask, u_dot, 0.0) / PLACES
    return value, value_dot


@triton.jit
def _outputs(
    x, x_dot, theta, direction, read, rows, there, o, IN: tl.constexpr, OUT: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, UNIT: tl.constexpr, IN_C: tl.constexpr, AREA: tl.constexpr, PLACES: tl.constexpr,
    IN_NORM: tl.constexpr, IN_SCALE: tl.constexpr, IN_SHIFT: tl.constexpr, IN_ACTIVATION: tl.constexpr,
    TANGENT: tl.constexpr, PAIRS: tl.constexpr, HF: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x Wᵀ + b, and with TANGENT its derivative: [rows, o] of one task."""
    z = tl.zeros((rows.shape[0], o.shape[0]), tl.float32)
    z_dot = z
    for first in range(0, IN, HF):
        f = first + tl.arange(0, HF)
        terms = unit_terms(
            read, theta, direction, f // AREA, f < IN, IN_C, IN_NORM, IN_SCALE, IN_SHIFT, PAIRS == 2
        )  # fmt: skip
        value, value_dot = _features(x, x_dot, rows, f, there, terms, IN, PLACES, UNIT, IN_ACTIVATION, PAIRS)
        weight = load_tile(theta + WEIGHT, f, o, 1, IN, f < IN, o < OUT)
        z = dot(value, weight, z, PRECISION)
        if TANGENT:
            weight_dot = load_tile(direction + WEIGHT, f, o, 1, IN, f < IN, o < OUT)
            z_dot = dot(value, weight_dot, z_dot, PRECISION)
        if PAIRS == 2:
            z_dot = dot(value_dot, weight, z_dot, PRECISION)
    if BIAS >= 0:
        z += tl.load(theta + BIAS + o, mask=o < OUT, other=0.0)[None, :]
        if TANGENT:
            z_dot += tl.load(direction + BIAS + o, mask=o < OUT, other=0.0)[None, :]
    return z, z_dot


_STRIDES = ["theta_stride", "direction_stride", "source_stride", "loss_stride", "y_stride"]


@triton.jit(do_not_specialize=[*_STRIDES, "SIZE", "N"])
def _head_kernel(
    x, x_dot, theta, direction, read, y, weights, outputs, losses, x_bar, source, rates, target, along, theta_stride,
    direction_stride, source_stride, loss_stride, y_stride, SIZE, N, IN: tl.constexpr, OUT: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr, IN_C: tl.constexpr, AREA: tl.constexpr,
    PLACES: tl.constexpr, IN_NORM: tl.constexpr, IN_SCALE: tl.constexpr, IN_SHIFT: tl.constexpr,
    IN_ACTIVATION: tl.constexpr, LOSS: tl.constexpr, WEIGHTED: tl.constexpr, TANGENT: tl.constexpr,
    PAIRS: tl.constexpr, WANTED: tl.constexpr, BELOW: tl.constexpr, MODE: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, HF: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs, loss, gradient to the sink where WANTED, x̄ where a layer is BELOW; with TANGENT the derivatives."""
    task, tile = tl.program_id(1).to(tl.int64), tl.program_id(0)
    theta += task * theta_stride
    direction += task * direction_stride
    read += task * 4 * IN_C
    x += task * N * IN * PLACES
    x_dot += task * N * IN * PLACES
    o = tl.arange(0, PADDED)
    own = tile * HF + tl.arange(0, HF)
    own_terms = unit_terms(
        read, theta, direction, own // AREA, own < IN, IN_C, IN_NORM, IN_SCALE, IN_SHIFT, PAIRS == 2
    )  # fmt: skip
    weight = load_tile(theta + WEIGHT, o, own, IN, 1, o < OUT, own < IN)
    weight_dot = weight
    if TANGENT:
        weight_dot = load_tile(direction + WEIGHT, o, own, IN, 1, o < OUT, own < IN)
    gradient = tl.zeros((PADDED, HF), tl.float32)
    bias_gradient = tl.zeros((PADDED,), tl.float32)
    total = sum_of_weights(weights + task * N, N, WEIGHTED, ROWS)
    loss = 0.0
    start = 0
    while start < N:
        rows = start + tl.arange(0, ROWS)
        there = rows < N
        share = tl.where(there, 1.0, 0.0)
        if WEIGHTED:
            share = tl.load(weights + task * N + rows, mask=there, other=0.0)
        share = share / total
        z, z_dot = _outputs(
            x, x_dot, theta, direction, read, rows, there, o, IN, OUT, WEIGHT, BIAS, UNIT, IN_C, AREA, PLACES, IN_NORM,
            IN_SCALE, IN_SHIFT, IN_ACTIVATION, TANGENT, PAIRS, HF, PRECISION,
        )  # fmt: skip
        if not TANGENT:
            first = (o < OUT) & (o * 0 + tile == 0)  # the first program alone: all have the same
            store_tile(outputs + task * N * OUT, rows, o, OUT, z, there, first)
        if LOSS != "none":
            part, bar, bar_dot = loss_rows(z, z_dot, z, z_dot, y + task * y_stride, rows, o, share, OUT, LOSS)
            loss += part
            mask = (share > 0)[:, None] & (o < OUT)[None, :]
            bar, bar_dot = tl.where(mask, bar, 0.0), tl.where(mask, bar_dot, 0.0)
            lead = bar_dot if TANGENT else bar
            if WANTED:
                value, value_dot = _features(
                    x, x_dot, rows, own, there, own_terms, IN, PLACES, UNIT, IN_ACTIVATION, PAIRS
                )  # fmt: skip
                gradient = dot(tl.trans(lead), value, gradient, PRECISION)
                if PAIRS == 2:
                    gradient = dot(tl.trans(bar), value_dot, gradient, PRECISION)
                bias_gradient += tl.sum(lead, 0)
            if BELOW:
                below = dot(lead, weight, tl.zeros((ROWS, HF), tl.float32), PRECISION)
                if TANGENT:
                    below = dot(bar, weight_dot, below, PRECISION)
                store_tile(x_bar + task * N * IN, rows, own, IN, below, there, own < IN)
        start += ROWS
    if LOSS != "none" and not TANGENT and tile == 0:
        tl.store(losses + task * loss_stride, loss)
    if WANTED:
        sink = (source + task * source_stride, rates, target + task * SIZE, along + task * SIZE)
        inside = (o < OUT)[:, None] & (own < IN)[None, :]
        hand_out(gradient, WEIGHT + o[:, None] * IN + own[None, :], inside, sink, MODE)
        if BIAS >= 0:
            hand_out(bias_gradient, BIAS + o, (o < OUT) & (o * 0 + tile == 0), sink, MODE)


def obstacle(conv: Conv, loss: str) -> str | None:
    """Why the kernel does not take a last layer; None where it does."""
    if not conv.is_linear or conv.appended or loss == "gaussian":
        return "its outputs meet one another in the loss"
    return None if conv.outputs <= MAX_OUTPUTS else f"it has more than {MAX_OUTPUTS} outputs"


def head(
    conv: Conv, below: Reading, theta: Tensor, y: Tensor, weights: Tensor | None, loss: str, outputs: Tensor,
    losses: Tensor, sink: Sink | None, x_bar: Tensor | None, precision: str, direction: Tensor | None = None,
) -> None:  # fmt: skip
    """Outputs [T, N, OUT] of a linear layer at theta, losses [T] (any stride), the gradient to the sink, and x̄.

    The loss "none" leaves all but the outputs alone, and asks for nothing but x.

    With a direction [T, P] the derivative along it of what goes to the sink and to x_bar; outputs and losses stay.

    below: x [T, N, features], or maps of a unit to be applied and averaged over each. sink, x_bar: None: not wanted.
    """
    tasks, samples = below.x.shape[:2]
    features = conv.inputs
    given, along = sink or Sink.plain(theta), theta if direction is None else direction
    padded = max(16, triton.next_power_of_2(conv.outputs))
    rows = max(16, min(ROWS, triton.next_power_of_2(samples)))
    wide = TILES[precision][1]
    programs = 1 if sink is None and x_bar is None else triton.cdiv(features, wide)
    _head_kernel[(programs, tasks)](
        x=below.x, x_dot=below.x if below.x_dot is None else below.x_dot, theta=theta, direction=along, read=below.read,
        y=y, weights=theta if weights is None else weights, outputs=outputs, losses=losses,
        x_bar=outputs if x_bar is None else x_bar, **given.arguments, theta_stride=stride(theta),
        direction_stride=stride(along), loss_stride=losses.stride(0), y_stride=y[0].numel(),
        SIZE=given.target.shape[-1], N=samples, IN=features, OUT=conv.outputs, WEIGHT=conv.weight, BIAS=conv.bias,
        **below.shape(features), PLACES=below.x[0, 0].numel() // features, LOSS=loss, WEIGHTED=weights is not None,
        TANGENT=direction is not None, PAIRS=2 if direction is not None and below.x_dot is not None else 1,
        WANTED=sink is not None, BELOW=x_bar is not None, PADDED=padded, ROWS=rows, HF=wide, PRECISION=precision,
        **OPTIONS,
    )  # fmt: skip
