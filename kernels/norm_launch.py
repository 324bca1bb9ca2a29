"""Launches of batch norm, activation and pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor

from .flat import Sink, stride
from .norm import _backward_kernel, _forward_kernel, _tangent_kernel

OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
BLOCK = 256
SHARES = 64
"""Windows of a program at a time, and most programs of one channel."""


@dataclass(frozen=True)
class Unit:
    """pool(activation(norm(y))) of maps [N, channels, height, width].

    Args:
        norm: whether there is batch norm; scale, shift: offsets of its parameters, −1 where there are none.
        activation: "none", "relu" or "tanh".
        pool: "max" or "mean" over window × window; a window of 1 is no pooling.
    """

    channels: int
    height: int
    width: int
    norm: bool = False
    scale: int = -1
    shift: int = -1
    eps: float = 0.0
    activation: str = "none"
    pool: str = "max"
    window: int = 1

    @property
    def shape(self) -> dict[str, Any]:
        """The constexpr arguments of the kernels."""
        return {
            **{"C": self.channels, "H": self.height, "W": self.width, "P": self.window, "POOL": self.pool},
            **{"NORM": self.norm, "SCALE": self.scale, "SHIFT": self.shift, "ACTIVATION": self.activation, "B": BLOCK},
        }

    def forward(self, y: Tensor, theta: Tensor, out: Tensor, statistics: Tensor) -> None:
        """out [T, N, C, H / window, W / window] from y [T, N, C, H, W] and its statistics [T, 4, C]: mean and r."""
        _forward_kernel[self._grid(y)](
            y, theta, stride(theta), out, statistics, y.shape[1], **self.shape, **OPTIONS
        )  # fmt: skip

    def tangent(
        self, y: Tensor, y_dot: Tensor, theta: Tensor, direction: Tensor, out_dot: Tensor, statistics: Tensor
    ) -> None:
        """The derivative of `forward`; statistics: also m(ẏ) and m(x̂ ẏ)."""
        _tangent_kernel[self._grid(y)](
            y, y_dot, theta, direction, stride(theta), stride(direction), out_dot, statistics, y.shape[1],
            **self.shape, **OPTIONS,
        )  # fmt: skip

    def backward(
        self, y: Tensor, out_bar: Tensor, theta: Tensor, y_bar: Tensor, sink: Sink | None, statistics: Tensor,
        y_dot: Tensor | None = None, out_bar_dot: Tensor | None = None, direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """ȳ into y_bar, γ̄ and β̄ into the sink (None: not wanted); given the tangents, the derivatives of all three."""
        given = sink or Sink.plain(y)
        along = theta if direction is None else direction
        _backward_kernel[(self.channels, y.shape[0])](
            y=y, y_dot=y if y_dot is None else y_dot, out_bar=out_bar,
            out_bar_dot=out_bar if out_bar_dot is None else out_bar_dot, theta=theta, direction=along, y_bar=y_bar,
            statistics=statistics, **given.arguments, stride=stride(theta), direction_stride=stride(along),
            SIZE=given.target.shape[-1], N=y.shape[1], **self.shape, TANGENT=y_dot is not None,
            WANTED=sink is not None, **OPTIONS,
        )  # fmt: skip

    def _grid(self, y: Tensor) -> tuple[int, int, int]:
        """Windows of a channel are shared by programs, where they are many."""
        windows = y.shape[1] * (self.height // self.window) * (self.width // self.window)
        return min(triton.cdiv(windows, BLOCK), SHARES), self.channels, y.shape[0]
