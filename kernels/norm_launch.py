"""Launches of batch norm, activation and pooling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .norm import _backward_kernel, _forward_kernel, _tangent_kernel

OPTIONS: dict[str, Any] = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
BLOCK = 256


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
        """out [T, N, C, H / window, W / window] from y [T, N, C, H, W]; statistics [4, T, C]: mean and r."""
        _forward_kernel[(self.channels, y.shape[0])](
            y, theta, _stride(theta), out, statistics[0], statistics[1], y.shape[1], self.eps, **self.shape, **OPTIONS
        )

    def tangent(
        self, y: Tensor, y_dot: Tensor, theta: Tensor, direction: Tensor, out_dot: Tensor, statistics: Tensor
    ) -> None:
        """The derivative of `forward`; statistics: also m(ẏ) and m(x̂ ẏ)."""
        _tangent_kernel[(self.channels, y.shape[0])](
            y, y_dot, theta, direction, _stride(theta), _stride(direction), out_dot, statistics[0], statistics[1],
            statistics[2], y.shape[1], **self.shape, **OPTIONS,
        )  # fmt: skip

    def backward(
        self, y: Tensor, out_bar: Tensor, theta: Tensor, y_bar: Tensor, gradient: Tensor, statistics: Tensor,
        y_dot: Tensor | None = None, out_bar_dot: Tensor | None = None, direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        """ȳ into y_bar, γ̄ and β̄ into gradient [S, T, P]; given the tangents, the derivatives of all three instead."""
        tangent = y_dot is not None
        dot, bar_dot = y if y_dot is None else y_dot, out_bar if out_bar_dot is None else out_bar_dot
        along = theta if direction is None else direction
        _backward_kernel[(self.channels, y.shape[0])](
            y, dot, out_bar, bar_dot, theta, along, _stride(theta), _stride(along), y_bar, y_bar, gradient,
            statistics[0], statistics[1], statistics[2], gradient.stride(0), gradient.shape[2], y.shape[1],
            **self.shape, TANGENT=tangent, SPLITS=gradient.shape[0], **OPTIONS,
        )  # fmt: skip


def _stride(flat: Tensor) -> int:
    """From one task to the next, 0 where all share the parameters."""
    return flat.shape[-1] if flat.dim() == 2 else 0
