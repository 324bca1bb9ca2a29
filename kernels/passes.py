"""Passes over a network layer by layer: forward, backward, and products with the Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from . import head
from .conv_launch import Moments, Reading
from .flat import Part, Sink, update
from .losses import cotangent
from .mlp_launch import Data
from .stages import Maps, Network, Stage


class Passes:
    """Passes of a network over one set of samples of T tasks, each leaving gradients [T, P] to a sink.

    counters: those of other passes over as many tasks, to be used by turns.
    """

    def __init__(self, network: Network, data: Data, tangents: bool, counters: Tensor | None = None) -> None:
        self.network, self.data, self.stages, self.precision = network, data, network.stages, network.precision
        tasks, samples = data.x.shape[:2]
        self.maps = [
            Maps(stage, is_open, data.x, tangents) for stage, is_open in zip(self.stages, network.open, strict=True)
        ]
        self._parts, self._partial = self._split(tasks, samples)
        rooms = [
            stage.conv.moments_room(tasks, samples, self.precision)
            for stage in self.stages
            if stage.unit is not None and stage.unit.norm
        ]
        self._room = data.x.new_empty(max((numbers for numbers, _ in rooms), default=0))
        if counters is None:
            counters = data.x.new_zeros(max((count for _, count in rooms), default=0), dtype=torch.int32)
        self.counters = counters

    def forward(self, theta: Tensor) -> None:
        """y, and out, of each stage at theta [P] or [T, P]; of the head when its loss is taken."""
        for number, (stage, maps) in enumerate(self._body()):
            stage.conv.forward(self._below(number, False), theta, maps.y, self.precision, self._moments(number))
            if stage.unit is not None and not self.network.open[number]:
                stage.unit.forward(maps.y, theta, maps.out, maps.statistics)

    def outputs(self, theta: Tensor) -> Tensor:
        """[T, N, OUT] at theta, with a forward pass and without a loss."""
        self.forward(theta)
        if self.network.has_head:
            self._head(theta, "none", theta, None, None)
        return self.maps[-1].out.flatten(2)

    def backward(self, theta: Tensor, losses: Tensor, sink: Sink | None) -> Tensor:
        """After `forward`: each task's loss into losses [T], its gradient into the sink; gives outputs [T, N, OUT].

        With no sink only what `product` needs is made.
        """
        self._loss(theta, losses, sink, None)
        for number, (stage, maps) in reversed(list(enumerate(self._body()))):
            if stage.unit is not None:
                stage.unit.backward(maps.y, maps.out_bar, theta, maps.y_bar, sink, maps.statistics)
            stage.conv.backward(
                maps.y_bar, self._below(number, False), theta, sink, self._bar_below(number, False), self.precision,
                partial=self._partial.get(number),
            )  # fmt: skip
        self._update(sink)
        return self.maps[-1].out.flatten(2)

    def product(self, theta: Tensor, direction: Tensor, losses: Tensor, sink: Sink) -> None:
        """After both: the Hessian times direction [T, P] into the sink; forward over reverse."""
        for number, (stage, maps) in enumerate(self._body()):
            stage.conv.forward(
                self._below(number, True), theta, maps.y, self.precision, self._moments(number), maps.y_dot, direction
            )  # fmt: skip
            if stage.unit is not None and not self.network.open[number]:
                stage.unit.tangent(maps.y, maps.y_dot, theta, direction, maps.out_dot, maps.statistics)
        self._loss(theta, losses, sink, direction)
        for number, (stage, maps) in reversed(list(enumerate(self._body()))):
            if stage.unit is not None:
                stage.unit.backward(
                    maps.y, maps.out_bar, theta, maps.y_bar_dot, sink, maps.statistics, maps.y_dot, maps.out_bar_dot,
                    direction,
                )  # fmt: skip
            stage.conv.backward(
                maps.y_bar, self._below(number, True), theta, sink, self._bar_below(number, True), self.precision,
                maps.y_bar_dot, direction, self._partial.get(number),
            )  # fmt: skip
        self._update(sink)

    def _body(self) -> list[tuple[Stage, Maps]]:
        """The stages, but for one that is the head."""
        pairs = list(zip(self.stages, self.maps, strict=True))
        return pairs[:-1] if self.network.has_head else pairs

    def _loss(self, theta: Tensor, losses: Tensor, sink: Sink | None, direction: Tensor | None) -> None:
        last, data, loss = self.maps[-1], self.data, self.network.loss
        if not self.network.has_head:
            dots = (last.out_bar, None) if direction is None else (last.out_bar_dot, last.out_dot)
            cotangent(last.out, data.y, data.weights, loss, losses, *dots)
            return
        bar = self._bar_below(len(self.stages) - 1, direction is not None)
        self._head(theta, loss, losses, sink, bar, direction)

    def _head(
        self, theta: Tensor, loss: str, losses: Tensor, sink: Sink | None, x_bar: Tensor | None,
        direction: Tensor | None = None,
    ) -> None:  # fmt: skip
        number, data = len(self.stages) - 1, self.data
        head.head(
            self.stages[number].conv, self._below(number, direction is not None), theta, data.y, data.weights, loss,
            self.maps[number].y, losses, sink, x_bar, self.precision, direction,
        )  # fmt: skip

    def _below(self, number: int, tangent: bool) -> Reading:
        """What a stage reads."""
        if number == 0:
            return Reading(self.data.x)
        maps = self.maps[number - 1]
        unit = self.stages[number - 1].unit if self.network.open[number - 1] else None
        return Reading(maps.out, maps.out_dot if tangent else None, unit, maps.statistics)

    def _bar_below(self, number: int, tangent: bool) -> Tensor | None:
        if number == 0:
            return None
        return self.maps[number - 1].out_bar_dot if tangent else self.maps[number - 1].out_bar

    def _moments(self, number: int) -> Moments | None:
        unit = self.stages[number].unit
        if unit is None or not unit.norm:
            return None
        statistics = self.maps[number].statistics
        return Moments(statistics, self._room, self.counters, unit.eps, self.network.barriers)

    def _split(self, tasks: int, samples: int) -> tuple[list[Part], dict[int, Tensor]]:
        """Of the stages whose weight gradients take several programs: their parts, and room for the partial sums."""
        parts, base, shapes = [], 0, {}
        for number, (stage, _) in enumerate(self._body()):
            splits = stage.conv.splits(tasks, samples, self.precision)
            if splits > 1:
                found = stage.conv.parts(splits, base)
                parts += found
                shapes[number] = (base, splits, found[0].span)
                base += splits * found[0].span
        room = self.data.x.new_empty(base * tasks)
        views = {
            number: room[start * tasks : (start + splits * span) * tasks].view(splits, tasks, span)
            for number, (start, splits, span) in shapes.items()
        }
        self._partial_room = room
        return parts, views

    def _update(self, sink: Sink | None) -> None:
        if self._parts and sink is not None:
            update(sink, self._partial_room, self._parts)
