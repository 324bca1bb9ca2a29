"""Launches of the per-task convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
from torch import Tensor

from .conv import _backward_kernel, _forward_kernel
from .flat import Part, Sink, stride
from .moments import _finish_kernel
from .norm_launch import Unit

OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
READING: dict[str, Any] = {**OPTIONS, "num_warps": 8, "num_stages": 1}
"""Of forward passes that apply a unit or take a tangent: what is loaded ahead would cost them too many registers."""

BACKWARD: dict[str, Any] = {**OPTIONS, "num_warps": 8}
"""With four warps its registers spill."""

TILES = {"ieee": (64, 32, 16), "tf32": (64, 64, 32), "tf32x3": (64, 32, 32), "bf16": (64, 64, 32)}
"""Positions, channels and terms of the inner sum of a tile, by precision."""

NARROW, LONG = 32, 64
"""Up to so many terms (a first layer's) a weight gradient has small tiles, which leaves registers for long sums."""

CHUNKS = 32
"""Chunks of positions that a program of the weight gradient sums, before they are split over several."""

PROGRAMS = 2048
"""Programs that fill any GPU: no more splits than that takes."""


class Reading(NamedTuple):
    """What a layer reads: x [T, N, C, H, W] and ẋ (None: zero), or maps that a unit is still to be applied to.

    statistics: of those maps, [T, 4, C]. AREA of the kernels: how many inputs in a row are of one channel.
    """

    x: Tensor
    x_dot: Tensor | None = None
    unit: Unit | None = None
    statistics: Tensor | None = None

    def shape(self, inputs: int) -> dict[str, Any]:
        """Constexpr arguments of the kernels that read it."""
        unit, channels = self.unit or Unit(inputs, 1, 1), (self.unit.channels if self.unit else inputs)
        return {
            **{"UNIT": self.unit is not None, "IN_C": channels, "AREA": inputs // channels, "IN_NORM": unit.norm},
            **{"IN_SCALE": unit.scale, "IN_SHIFT": unit.shift, "IN_ACTIVATION": unit.activation},
        }

    @property
    def read(self) -> Tensor:
        return self.x if self.statistics is None else self.statistics


@dataclass(frozen=True)
class Moments:
    """Where a convolution leaves the moments of its maps, for the batch norm that follows.

    Args:
        statistics: [T, 4, C]. parts: room for partial moments. counters: int32, zero between launches.
        eps: of the norm.
        at_once: whether the launch ends them itself; a GPU must order global memory at barriers for that.
    """

    statistics: Tensor
    parts: Tensor
    counters: Tensor
    eps: float
    at_once: bool = True


@dataclass(frozen=True)
class Conv:
    """A convolution of maps [N, inputs, height, width]; a linear layer is one of 1×1 maps.

    Args:
        inputs, outputs: channels. height, width: of the input. kernel, step, pad: of the window.
        weight, bias: offsets of its parameters in the flat vector; bias −1 where there is none.
        appended: how many of the outputs, the last ones, are no product but a parameter's own elements.
        append: offset of that parameter.
    """

    inputs: int
    outputs: int
    height: int
    width: int
    kernel: int
    step: int
    pad: int
    weight: int
    bias: int
    appended: int = 0
    append: int = -1

    @property
    def out_height(self) -> int:
        return (self.height + 2 * self.pad - self.kernel) // self.step + 1

    @property
    def out_width(self) -> int:
        return (self.width + 2 * self.pad - self.kernel) // self.step + 1

    @property
    def shape(self) -> dict[str, int]:
        """The constexpr arguments of the kernels."""
        return {
            **{"CI": self.inputs, "CO": self.outputs, "H": self.height, "W": self.width, "OH": self.out_height},
            **{"OW": self.out_width, "K": self.kernel, "STEP": self.step, "PAD": self.pad},
            **{"ROWS": self.outputs - self.appended, "WEIGHT": self.weight, "BIAS": self.bias, "APPEND": self.append},
        }

    @property
    def is_linear(self) -> bool:
        return self.height == self.width == self.kernel == 1 and self.pad == 0

    def places(self) -> list[tuple[int, int]]:
        """First and behind the last of each of its parameters."""
        rows = self.outputs - self.appended
        found = [(self.weight, self.weight + rows * self.inputs * self.kernel**2)]
        found += [(self.bias, self.bias + rows)] if self.bias >= 0 else []
        return found + ([(self.append, self.append + self.appended)] if self.appended else [])

    def weight_tile(self, precision: str) -> tuple[int, int, int]:
        """Outputs, terms and positions that the weight gradient takes at a time."""
        _, bn, bk = TILES[precision]
        terms = self.inputs * self.kernel**2
        return (16, 16 if terms <= 16 else 32, LONG) if terms <= NARROW else (bn, bn, bk)

    def weight_tiles(self, precision: str) -> int:
        outputs, terms, _ = self.weight_tile(precision)
        return triton.cdiv(self.outputs, outputs) * triton.cdiv(self.inputs * self.kernel**2, terms)

    def splits(self, tasks: int, samples: int, precision: str) -> int:
        """Over how many programs the sum over positions is spread, so that none is too long."""
        positions = samples * self.out_height * self.out_width
        enough = max(1, PROGRAMS // (tasks * self.weight_tiles(precision)))
        return min(triton.cdiv(positions, CHUNKS * self.weight_tile(precision)[2]), enough)

    def forward(
        self, below: Reading, theta: Tensor, y: Tensor, precision: str, moments: Moments | None = None,
        y_dot: Tensor | None = None, direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """y = x ⋆ w + b at theta [P] or [T, P]; with y_dot and a direction [T, P] instead ẏ = x ⋆ ẇ + ẋ ⋆ w + ḃ.

        y, ẏ: [T, N, outputs, …], written whole. moments: those of what is written, wanted where a batch norm follows.
        With one θ for all tasks it is one ordinary convolution of T · N samples, but that a tile is of one task where
        moments are taken.
        """
        tasks, samples = below.x.shape[:2]
        if theta.dim() == 1 and direction is None and moments is None and below.unit is None:
            tasks, samples = 1, tasks * samples
        bm, bn, bk = TILES[precision]
        positions = samples * self.out_height * self.out_width
        bm = _tile(positions, bm)
        blocks = triton.cdiv(positions, bm)
        along = theta if direction is None else direction
        grid = (blocks, triton.cdiv(self.outputs, bn), tasks)
        tangent, at_once = y_dot is not None, moments is not None and moments.at_once
        _forward_kernel[grid](
            below.x, below.x if below.x_dot is None else below.x_dot, theta, along, y, y if y_dot is None else y_dot,
            below.read, *((y, y, y) if moments is None else (moments.statistics, moments.parts, moments.counters)),
            stride(theta), stride(along), samples, 0.0 if moments is None else moments.eps, **self.shape,
            **below.shape(self.inputs), TANGENT=tangent, PAIRS=2 if tangent and below.x_dot is not None else 1,
            MOMENTS=moments is not None, AT_ONCE=at_once, BM=bm, BN=bn, BK=bk, PRECISION=precision,
            **(READING if tangent or below.unit is not None else OPTIONS),
        )  # fmt: skip
        if moments is not None and not at_once:
            _finish_kernel[(triton.cdiv(self.outputs, bn), tasks)](
                moments.parts, moments.statistics, blocks, positions, moments.eps, self.outputs, bn, tangent, **OPTIONS
            )

    def moments_room(self, tasks: int, samples: int, precision: str) -> tuple[int, int]:
        """How many partial moments, and how many counters, a launch needs."""
        positions = samples * self.out_height * self.out_width
        blocks = triton.cdiv(positions, _tile(positions, TILES[precision][0]))
        return tasks * blocks * 3 * self.outputs, tasks * triton.cdiv(self.outputs, TILES[precision][1])

    def backward(
        self, y_bar: Tensor, below: Reading, theta: Tensor, sink: Sink | None, x_bar: Tensor | None, precision: str,
        y_bar_dot: Tensor | None = None, direction: Tensor | None = None, partial: Tensor | None = None,
    ) -> None:  # fmt: skip
        """w̄ and b̄ into the sink, and x̄ (each None: not wanted), in one launch.

        With y_bar_dot and a direction their derivatives instead: ẇ̄ = ẏ̄ᵀ x + ȳᵀ ẋ (ẋ None: zero), ẋ̄ = ẏ̄ ⋆ᵀ w + ȳ ⋆ᵀ ẇ.
        partial: [S, T, span] for as many partial sums, which `flat.update` then hands to the sink.
        """
        if sink is None and x_bar is None:
            return
        tasks, samples = below.x.shape[:2]
        bm, bn, bk = TILES[precision]
        bm = _tile(samples * self.height * self.width, bm)
        lead, along = y_bar if y_bar_dot is None else y_bar_dot, theta if direction is None else direction
        given, splits = sink or Sink.plain(lead), 1
        low, span, split_stride = 0, given.target.shape[-1], 0
        if partial is not None:
            given, splits, low, span = Sink.plain(partial), len(partial), self._low, partial.shape[2]
            split_stride = partial.stride(0)
        tiles = 0 if sink is None else self.weight_tiles(precision) * splits
        input_tiles = triton.cdiv(samples * self.height * self.width, bm) * triton.cdiv(self.inputs, bn)
        pairs = 1 + (y_bar_dot is not None)
        outputs, terms, length = self.weight_tile(precision)
        _backward_kernel[(tiles + (0 if x_bar is None else input_tiles), tasks)](
            y_bar=lead, x=below.x, y_bar2=y_bar, x2=below.x if below.x_dot is None else below.x_dot, theta=theta,
            direction=along, read=below.read, x_bar=lead if x_bar is None else x_bar, **given.arguments,
            theta_stride=stride(theta), direction_stride=stride(along), split_stride=split_stride, LOW=low, SIZE=span,
            N=samples, weight_tiles=tiles, **self.shape, **below.shape(self.inputs), SPLITS=splits,
            WEIGHT_PAIRS=pairs if below.x_dot is not None else 1, INPUT_PAIRS=0 if x_bar is None else pairs, BM=bm,
            BN=bn, BK=bk, WN=outputs, WR=terms, WK=length, PRECISION=precision, **BACKWARD,
        )  # fmt: skip

    @property
    def _low(self) -> int:
        return min(start for start, _ in self.places())

    def parts(self, splits: int, base: int) -> list[Part]:
        """Its parameters as parts of `flat.update`, whose partial sums begin at base."""
        span = max(end for _, end in self.places()) - self._low
        return [Part(start, end, splits, self._low, span, base) for start, end in self.places()]


def _tile(positions: int, most: int) -> int:
    """Positions of a tile: no more than there are, as late layers of small images have few."""
    return max(16, min(most, int(triton.next_power_of_2(positions))))
