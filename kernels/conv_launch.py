"""Launches of the per-task convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor

from .conv import _backward_kernel, _forward_kernel

OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 2, "enable_fp_fusion": True}
BACKWARD: dict[str, Any] = {**OPTIONS, "num_warps": 8}
"""With four warps its registers spill."""

TILES = {"ieee": (64, 32, 16), "tf32": (64, 64, 32), "tf32x3": (64, 32, 32), "bf16": (64, 64, 32)}
"""Positions, channels and terms of the inner sum of a tile, by precision."""

CHUNKS = 32
"""Chunks of positions that a program of the weight gradient sums, before they are split over several."""


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
            **{"ROWS": self.outputs - self.appended, "BIAS": self.bias >= 0},
            "APPEND": self.append - max(self.bias, 0),
        }

    def splits(self, samples: int, precision: str) -> int:
        """Over how many programs the sum over positions is spread, so that none is too long."""
        positions = samples * self.out_height * self.out_width
        return triton.cdiv(positions, CHUNKS * TILES[precision][2])

    def forward(
        self, x: Tensor, theta: Tensor, y: Tensor, precision: str, x_dot: Tensor | None = None,
        direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """y = x ⋆ w + b at theta [P] or [T, P]; with a direction [T, P] instead ẏ = x ⋆ ẇ + ẋ ⋆ w + ḃ (ẋ None: zero).

        x: [T, N, inputs, height, width]; y [T, N, outputs, …] is written whole. With one θ for all tasks it is one
        ordinary convolution of T · N samples.
        """
        tasks, samples = x.shape[:2]
        if theta.dim() == 1 and direction is None:
            tasks, samples = 1, tasks * samples
        bm, bn, bk = TILES[precision]
        bm = _tile(samples * self.out_height * self.out_width, bm)
        first = theta if direction is None else direction
        second, pairs = (theta, 2) if x_dot is not None else (first, 1)
        grid = (triton.cdiv(samples * self.out_height * self.out_width, bm), triton.cdiv(self.outputs, bn), tasks)
        _forward_kernel[grid](
            x, _at(first, self.weight), x if x_dot is None else x_dot, _at(second, self.weight),
            _at(first, self.bias), y, _stride(first), _stride(second), _stride(first), samples, **self.shape,
            PAIRS=pairs, BM=bm, BN=bn, BK=bk, PRECISION=precision, **OPTIONS,
        )  # fmt: skip

    def backward(
        self, y_bar: Tensor, x: Tensor, theta: Tensor, gradient: Tensor, x_bar: Tensor | None, precision: str,
        y_bar_dot: Tensor | None = None, x_dot: Tensor | None = None, direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """w̄ and b̄ into gradient [S, T, P], as S partial sums, and x̄ (None: not wanted), in one launch.

        With y_bar_dot and a direction their derivatives instead: ẇ̄ = ẏ̄ᵀ x + ȳᵀ ẋ (ẋ None: zero), ẋ̄ = ẏ̄ ⋆ᵀ w + ȳ ⋆ᵀ ẇ.
        """
        tasks, samples = x.shape[:2]
        bm, bn, bk = TILES[precision]
        bm = _tile(samples * self.height * self.width, bm)
        tangent = y_bar_dot is not None
        lead = y_bar if y_bar_dot is None else y_bar_dot
        other = theta if direction is None else direction
        splits = gradient.shape[0]
        rows = triton.cdiv(self.inputs * self.kernel**2, bn)
        weight_tiles = triton.cdiv(self.outputs, bn) * rows * splits
        positions = triton.cdiv(samples * self.height * self.width, bm)
        input_tiles = 0 if x_bar is None else positions * triton.cdiv(self.inputs, bn)
        _backward_kernel[(weight_tiles + input_tiles, tasks)](
            lead, x, _at(theta, self.weight), y_bar, x if x_dot is None else x_dot, _at(other, self.weight),
            lead if x_bar is None else x_bar, _at(gradient, self.weight), _at(gradient, self.bias), _stride(theta),
            _stride(other), gradient.stride(0), gradient.shape[2], samples, weight_tiles, **self.shape, SPLITS=splits,
            WEIGHT_PAIRS=2 if x_dot is not None else 1,
            INPUT_PAIRS=0 if x_bar is None else 1 + tangent, BM=bm, BN=bn, BK=bk, PRECISION=precision, **BACKWARD,
        )  # fmt: skip


def _tile(positions: int, most: int) -> int:
    """Positions of a tile: no more than there are, as late layers of small images have few."""
    return max(16, min(most, int(triton.next_power_of_2(positions))))


def _at(flat: Tensor, offset: int) -> Tensor:
    """The flat tensor from an offset on; a pointer for the kernels."""
    return flat[..., max(offset, 0) :]


def _stride(flat: Tensor) -> int:
    """From one task to the next, 0 where all share the parameters."""
    return flat.shape[-1] if flat.dim() == 2 else 0
