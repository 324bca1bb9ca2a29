"""Networks of convolutions layer by layer: each kernel does one layer of all tasks. Also for wide linear layers.

A stage is a convolution and what follows it up to the next one. Activations are those of one support and one query set;
memory grows with the inner steps by parameter copies alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from . import head
from .conv_launch import Conv, Moments, Reading
from .flat import Part, Sink, sum_rows, update
from .losses import cotangent
from .mlp_launch import Data, MetaResult, Needs
from .norm_launch import Unit

MAX_TASKS = 65535
"""Programs that a GPU takes in the second and third dimension of a grid."""


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
        whole = unit.pool == "mean" and unit.window == unit.height == unit.width
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


@dataclass(frozen=True)
class Layered:
    """The four verbs, layer by layer; as `mlp_launch.Launcher`, whose arguments these are.

    barriers: whether the GPU's barriers order its global memory, so that a launch can end what all its programs began.
    """

    stages: tuple[Stage, ...]
    size: int
    loss: str
    precision: str
    barriers: bool = True

    def meta_gradient(
        self, theta: Tensor, inner_lr: Tensor, support: Data, query: Data, steps: int, through: bool, learned: bool,
        kept: Tensor | None = None,
    ) -> MetaResult:  # fmt: skip
        tasks = support.x.shape[0]
        passes = self._passes(support, through)
        asking = self._passes(query, False, passes.counters)
        copies, step_losses = theta.new_empty(steps, tasks, self.size), theta.new_empty(tasks, steps)
        losses, spare, total = theta.new_empty(tasks), theta.new_empty(tasks), theta.new_empty(self.size)
        adjoint, direction, other = theta.new_empty(3, tasks, self.size)
        lr_sums = theta.new_zeros(tasks, self.size) if learned else None
        lr_gradient = None if lr_sums is None else torch.empty_like(total)
        # from here on kernels alone, and no memory is made between them
        thetas = self._steps(theta, inner_lr, passes, list(copies), step_losses)
        asking.forward(thetas[-1])
        outputs = asking.backward(thetas[-1], losses, Sink("gradient", adjoint, adjoint, inner_lr, direction))
        if through or lr_sums is not None:
            self._reverse(thetas, passes, inner_lr, adjoint, (direction, other), through, lr_sums, spare)
        sum_rows(adjoint, total, 1 / tasks, kept)
        if lr_sums is not None and lr_gradient is not None:
            sum_rows(lr_sums, lr_gradient, 1 / tasks)
        return MetaResult(losses, total, lr_gradient, outputs, step_losses)

    def adapt(self, theta: Tensor, inner_lr: Tensor, support: Data, steps: int) -> tuple[Tensor, Tensor]:
        tasks = support.x.shape[0]
        losses, fast = theta.new_empty(tasks, steps), theta.new_empty(tasks, self.size)
        if not steps:
            return fast.copy_(theta), losses
        turns = theta.new_empty(2, tasks, self.size)  # nobody asks for those before the last
        copies = [*(turns[step % 2] for step in range(steps - 1)), fast]
        self._steps(theta, inner_lr, self._passes(support, False), copies, losses)
        return fast, losses

    def predict(self, fast: Tensor, x: Tensor) -> Tensor:
        return self._passes(Data(x, x), False).outputs(fast)

    def hvp(self, fast: Tensor, support: Data, vectors: Tensor) -> Tensor:
        return self._products(fast, support, None)(vectors)

    def linearise(self, fast: Tensor, support: Data) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient of each task's loss at fast [T, P], and vectors [T, P] ↦ products with its Hessian [T, P]."""
        gradient = torch.empty_like(fast)
        return gradient, self._products(fast, support, Sink.plain(gradient))

    def _products(self, fast: Tensor, support: Data, sink: Sink | None) -> Callable[[Tensor], Tensor]:
        """Vectors [T, P] ↦ Hessian-vector products; the gradient on the way to the sink, where it is wanted."""
        passes, losses = self._passes(support, True), fast.new_empty(fast.shape[0])
        passes.forward(fast)
        passes.backward(fast, losses, sink)

        def product(vectors: Tensor) -> Tensor:
            found = torch.empty_like(fast)
            passes.product(fast, vectors, losses, Sink.plain(found))
            return found

        return product

    def needs(self, support: int, query: int) -> Needs:
        """For sets of so many samples: maps of both, and copies of the parameters."""
        network = Network(self.stages, self.loss, self.precision, self.barriers)
        maps = [numbers_of(stage, is_open) for stage, is_open in zip(self.stages, network.open, strict=True)]
        return Needs(4 * self.size + query * sum(maps), self.size, 2 * sum(maps), MAX_TASKS)

    def _passes(self, data: Data, tangents: bool, counters: Tensor | None = None) -> Passes:
        if len(data.x) > MAX_TASKS:
            raise ValueError(
                f"tasks: given {len(data.x)} at a time; kernels of single layers take at most {MAX_TASKS}: "
                "take fewer and accumulate gradients"
            )
        return Passes(Network(self.stages, self.loss, self.precision, self.barriers), data, tangents, counters)

    def _steps(
        self, theta: Tensor, inner_lr: Tensor, passes: Passes, copies: Sequence[Tensor], losses: Tensor
    ) -> list[Tensor]:  # fmt: skip
        """θ_0 [P] or [T, P] and θ_1 … θ_K, into the K copies [T, P]; support losses into losses [T, K]."""
        thetas = [theta, *copies]
        for step, (before, after) in enumerate(pairwise(thetas)):
            passes.forward(before)
            passes.backward(before, losses[:, step], Sink("step", after, before, inner_lr, after))
        return thetas

    def _reverse(
        self, thetas: list[Tensor], passes: Passes, inner_lr: Tensor, adjoint: Tensor,
        directions: tuple[Tensor, Tensor], through: bool, lr_sums: Tensor | None, spare: Tensor,
    ) -> None:  # fmt: skip
        """λ_0 into adjoint [T, P], from λ_K there and A ∘ λ_K in the first of directions, whose second is room for the
        next; gradients of the inner lr are taken from lr_sums. spare: [T], for losses that nobody asks for.
        """
        direction, other = directions
        for step in reversed(range(len(thetas) - 1)):
            theta = thetas[step]
            if step < len(thetas) - 2 or lr_sums is not None:  # else the maps still are those of this step
                passes.forward(theta)
                taken = None if lr_sums is None else Sink("lr", lr_sums, adjoint, inner_lr, other)
                passes.backward(theta, spare, taken)
            if through:
                passes.product(theta, direction, spare, Sink("reverse", adjoint, adjoint, inner_lr, other))
                direction, other = other, direction
