"""A fully connected network as the kernels take it: nested tuples of numbers, and the sizes that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .mlp_forward import ARRAYS

TILE = 32
"""Most features of a tile."""

NARROW = 64
"""Features from which on a layer takes tiles of `TILE`, whatever that pads."""

INNER = {"ieee": 16, "tf32": 32, "tf32x3": 32, "bf16": 32}
"""Terms that a product sums at a time, by precision. Float32 products are unrolled into registers: no more fit."""

MAX_ROWS = 128
"""Most samples of a set that one program takes, since batch norm sees all of them at once."""

MAX_WIDTH = 1024
"""Widest layer that one program carries in sensible time; wider ones are spread over many, layer by layer."""

MAX_OUTPUTS = 1024
"""Widest output, of which the loss takes whole rows."""


@dataclass(frozen=True)
class Block:
    """y = activation(norm(x Wᵀ + b)), with the places of its parameters in the flat vector.

    Args:
        inputs, outputs: features.
        weight, bias: offsets of W [outputs, inputs] and b; bias None where there is none.
        norm: whether there is batch norm; scale, shift: offsets of its parameters, None where there are none.
        activation: "none", "relu" or "tanh".
        appended: how many of the outputs, the last ones, are no features but a parameter's own elements.
        append: offset of that parameter.
    """

    inputs: int
    outputs: int
    weight: int
    bias: int | None = None
    norm: bool = False
    scale: int | None = None
    shift: int | None = None
    eps: float = 0.0
    activation: str = "none"
    appended: int = 0
    append: int = -1


def padded(size: int, least: int = 16) -> int:
    """The power of two that holds `size`."""
    return max(least, 1 << (size - 1).bit_length())


def tile(width: int) -> int:
    """Features that a product takes at a time: of narrow layers as few as pad least, which leaves registers too."""
    return 16 if width < NARROW and width % TILE and width % TILE <= 16 else min(TILE, padded(width))


def network(
    blocks: Sequence[Block], samples: int, loss: str, weighted: bool, precision: str
) -> tuple[int | float | str | bool, ...]:
    """The constexpr argument NET, flat, since Triton takes no nested tuples.

    First rows of scratch, number of blocks, loss, whether samples have weights, INNER, rows that the loss takes at a
    time, precision. Then of each block: in, out, weight, bias, norm, scale, shift, eps, activation, place in scratch
    (in units of rows), tile of outputs, tile of inputs, outputs padded, rows of W, whether anything is added to
    x Wᵀ, where the appended parameter lies from the bias on. Absent offsets are −1.
    """
    rows, place = padded(samples), 0
    chunk = max(1, min(rows, 4096 // padded(blocks[-1].outputs)))
    found: list[int | float | str | bool] = [rows, len(blocks), loss, weighted, INNER[precision], chunk, precision]
    for block in blocks:
        bias, scale, shift = (-1 if offset is None else offset for offset in (block.bias, block.scale, block.shift))
        tiles = tile(block.outputs), tile(block.inputs), padded(block.outputs)
        found += [block.inputs, block.outputs, block.weight, bias, block.norm, scale, shift, float(block.eps)]
        found += [block.activation, place, *tiles, block.outputs - block.appended]
        found += [bias >= 0 or block.append >= 0, block.append - max(bias, 0)]
        place += ARRAYS * block.outputs
    return tuple(found)


def scratch_size(blocks: Sequence[Block], rows: int) -> int:
    """Numbers of scratch memory that a program needs."""
    return ARRAYS * rows * sum(block.outputs for block in blocks)


def obstacle(blocks: Sequence[Block], samples: int) -> str | None:
    """Why one program cannot carry the network on that many samples a task; None where it can."""
    if samples > MAX_ROWS:
        return f"{samples} samples of a task are more than the {MAX_ROWS} that one program carries"
    widest = max(max(block.inputs, block.outputs) for block in blocks)
    if widest > MAX_WIDTH:
        return f"a layer of {widest} features is wider than the {MAX_WIDTH} that one program carries"
    if blocks[-1].outputs > MAX_OUTPUTS:
        return f"{blocks[-1].outputs} outputs are more than the {MAX_OUTPUTS} that the loss takes"
    return None
