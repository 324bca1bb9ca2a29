"""A network as a row of stages, and the memory that each needs on a set of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from . import head
from .conv_launch import Conv
from .norm_launch import Unit


@dataclass(frozen=True)
class Stage:
    """unit(conv(x)); a linear layer is a convolution of 1×1 maps, of flattened x. unit None: nothing follows."""

    conv: Conv
    unit: Unit | None = None


class Network:
    """Stages in a row, and which of them leave something to the next.

    A unit without pooling is no pass of its own: the layer that reads the maps applies it. So does the head, the last
    linear layer with its loss, to one that ends in a mean over whole maps.
    """

    def __init__(self, stages: Sequence[Stage], loss: str, precision: str, barriers: bool) -> None:
        last = stages[-1]
        self.stages, self.loss, self.precision, self.barriers = tuple(stages), loss, precision, barriers
        self.has_head = last.unit is None and head.obstacle(last.conv, loss) is None
        self.open = [self._is_open(number) for number in range(len(stages))]

    def _is_open(self, number: int) -> bool:
        unit, following = self.stages[number].unit, number + 1
        if unit is None or following == len(self.stages):
            return False
        whole = unit.pool == "mean" and unit.window == unit.height == unit.width <= head.MAX_WINDOW
        return unit.window == 1 or (whole and self.has_head and following == len(self.stages) - 1)


class Maps:
    """What one stage computes on one set of samples, in memory that is written before it is read.

    y: of the convolution; out: of the unit, y where that is open; each [T, N, C, H, W], with cotangents (bar) and
    derivatives (dot). statistics [T, 4, C] of y.
    """

    def __init__(self, stage: Stage, is_open: bool, x: Tensor, tangents: bool) -> None:
        conv, unit, (tasks, samples) = stage.conv, stage.unit, x.shape[:2]
        shape = (tasks, samples, conv.outputs, conv.out_height, conv.out_width)
        pooled = shape if unit is None else (*shape[:3], shape[3] // unit.window, shape[4] // unit.window)
        self.y, self.y_bar = x.new_empty(shape), x.new_empty(shape)
        self.out, self.out_bar = self.y, self.y_bar
        self.y_dot = self.y_bar_dot = self.out_dot = self.out_bar_dot = self.y
        self.statistics = x.new_empty(tasks, 4, conv.outputs)
        if unit is not None:
            self.out, self.out_bar = self.y if is_open else x.new_empty(pooled), x.new_empty(pooled)
        if tangents:
            self.y_dot, self.y_bar_dot = x.new_empty(shape), x.new_empty(shape)
            self.out_dot, self.out_bar_dot = self.y_dot, self.y_bar_dot
            if unit is not None:
                self.out_dot, self.out_bar_dot = self.y_dot if is_open else x.new_empty(pooled), x.new_empty(pooled)


def numbers_of(stage: Stage, is_open: bool) -> int:
    """How many numbers the maps of one sample have, without tangents."""
    conv, unit = stage.conv, stage.unit
    area = conv.outputs * conv.out_height * conv.out_width
    if unit is None:
        return 2 * area
    pooled = conv.outputs * (conv.out_height // unit.window) * (conv.out_width // unit.window)
    return 2 * area + pooled * (1 if is_open else 2)
