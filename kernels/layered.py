"""Networks of convolutions layer by layer: each kernel does one layer of all tasks. Also for wide linear layers.

A stage is a convolution and what follows it up to the next one. Activations are those of one support and one query set;
memory grows with the inner steps by parameter copies alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from .conv_launch import Conv
from .flat import sum_rows, update
from .losses import cotangent
from .mlp_launch import Data, MetaResult
from .norm_launch import Unit

MAX_TASKS = 65535
"""Programs that a GPU takes in the second and third dimension of a grid."""


@dataclass(frozen=True)
class Stage:
    """unit(conv(x)); a linear layer is a convolution of 1×1 maps, of flattened x. unit None: nothing follows."""

    conv: Conv
    unit: Unit | None = None


class Maps:
    """What one stage computes on one set of samples, in memory that is written before it is read.

    y: of the convolution; out: of the unit; each [T, N, C, H, W], with cotangents (bar) and derivatives (dot).
    """

    def __init__(self, stage: Stage, x: Tensor, tangents: bool) -> None:
        conv, unit, (tasks, samples) = stage.conv, stage.unit, x.shape[:2]
        shape = (tasks, samples, conv.outputs, conv.out_height, conv.out_width)
        pooled = shape if unit is None else (*shape[:3], shape[3] // unit.window, shape[4] // unit.window)
        self.y, self.y_bar = x.new_empty(shape), x.new_empty(shape)
        self.out, self.out_bar = self.y, self.y_bar
        self.y_dot = self.y_bar_dot = self.out_dot = self.out_bar_dot = self.y
        self.statistics = x.new_empty(4, tasks, conv.outputs)
        if unit is not None:
            self.out, self.out_bar = x.new_empty(pooled), x.new_empty(pooled)
        if tangents:
            self.y_dot, self.y_bar_dot = x.new_empty(shape), x.new_empty(shape)
            self.out_dot, self.out_bar_dot = self.y_dot, self.y_bar_dot
            if unit is not None:
                self.out_dot, self.out_bar_dot = x.new_empty(pooled), x.new_empty(pooled)


class Passes:
    """Passes of a network over one set of samples of T tasks."""

    def __init__(self, stages: Sequence[Stage], loss: str, precision: str, data: Data, tangents: bool) -> None:
        self.stages, self.loss, self.precision, self.data = stages, loss, precision, data
        self.maps = [Maps(stage, data.x, tangents) for stage in stages]

    def forward(self, theta: Tensor) -> Tensor:
        """Outputs [T, N, C, 1, 1] at theta [P] or [T, P]."""
        x = self.data.x
        for stage, maps in zip(self.stages, self.maps, strict=True):
            stage.conv.forward(x, theta, maps.y, self.precision)
            if stage.unit is not None:
                stage.unit.forward(maps.y, theta, maps.out, maps.statistics)
            x = maps.out
        return x

    def backward(self, theta: Tensor, losses: Tensor, gradient: Tensor) -> None:
        """After `forward`: the loss of each task into losses [T], its gradient into gradient [S, T, P]."""
        last = self.maps[-1]
        cotangent(last.out, self.data.y, self.data.weights, self.loss, losses, last.out_bar)
        for number in reversed(range(len(self.stages))):
            stage, maps = self.stages[number], self.maps[number]
            if stage.unit is not None:
                stage.unit.backward(maps.y, maps.out_bar, theta, maps.y_bar, gradient, maps.statistics)
            x, x_bar = self._below(number, "out"), self._below(number, "out_bar")
            assert x is not None
            stage.conv.backward(maps.y_bar, x, theta, gradient, x_bar, self.precision)

    def product(self, theta: Tensor, direction: Tensor, losses: Tensor, result: Tensor) -> None:
        """After both: the Hessian times direction [T, P] into result [S, T, P]; forward over reverse."""
        x, x_dot = self.data.x, None
        for stage, maps in zip(self.stages, self.maps, strict=True):
            stage.conv.forward(x, theta, maps.y_dot, self.precision, x_dot, direction)
            if stage.unit is not None:
                stage.unit.tangent(maps.y, maps.y_dot, theta, direction, maps.out_dot, maps.statistics)
            x, x_dot = maps.out, maps.out_dot
        last = self.maps[-1]
        cotangent(last.out, self.data.y, self.data.weights, self.loss, losses, last.out_bar_dot, last.out_dot)
        for number in reversed(range(len(self.stages))):
            self._product_back(number, theta, direction, result)

    def _product_back(self, number: int, theta: Tensor, direction: Tensor, result: Tensor) -> None:
        stage, maps = self.stages[number], self.maps[number]
        if stage.unit is not None:
            stage.unit.backward(
                maps.y, maps.out_bar, theta, maps.y_bar_dot, result, maps.statistics, maps.y_dot, maps.out_bar_dot,
                direction,
            )  # fmt: skip
        x = self._below(number, "out")
        assert x is not None
        x_dot, x_bar_dot = self._below(number, "out_dot"), self._below(number, "out_bar_dot")
        stage.conv.backward(
            maps.y_bar, x, theta, result, x_bar_dot, self.precision, maps.y_bar_dot, x_dot, direction
        )  # fmt: skip

    def _below(self, number: int, field: str) -> Tensor | None:
        """Of the stage before; for the first one its input, or None where nothing is wanted of that."""
        if number:
            found: Tensor = getattr(self.maps[number - 1], field)
            return found
        return self.data.x if field == "out" else None


@dataclass(frozen=True)
class Layered:
    """The four verbs, layer by layer; as `mlp_launch.Launcher`, whose arguments these are."""

    stages: tuple[Stage, ...]
    size: int
    loss: str
    precision: str

    def meta_gradient(
        self, theta: Tensor, inner_lr: Tensor, support: Data, query: Data, steps: int, through: bool, learned: bool,
        kept: Tensor | None = None,
    ) -> MetaResult:  # fmt: skip
        tasks = support.x.shape[0]
        passes = self._passes(support, through)
        thetas, step_losses = self._steps(theta, inner_lr, passes, steps)
        losses, gradient = theta.new_empty(tasks), self._gradient(query)
        adjoint, direction = theta.new_empty(tasks, self.size), theta.new_empty(tasks, self.size)
        asking = self._passes(query, False)
        outputs = asking.forward(thetas[-1])
        asking.backward(thetas[-1], losses, gradient)
        update(adjoint, gradient, inner_lr, adjoint, direction, "gradient")
        lr_sums = theta.new_zeros(tasks, self.size) if learned else None
        less = self._reverse(thetas, passes, inner_lr, adjoint, direction, through, lr_sums)
        total, share = theta.new_empty(self.size), 1 / tasks
        sum_rows(adjoint, total, share, less, kept)
        lr_gradient = None if lr_sums is None else sum_rows(lr_sums, theta.new_empty(self.size), share)
        return MetaResult(losses, total, lr_gradient, outputs.flatten(2), step_losses)

    def adapt(self, theta: Tensor, inner_lr: Tensor, support: Data, steps: int) -> tuple[Tensor, Tensor]:
        thetas, losses = self._steps(theta, inner_lr, self._passes(support, False), steps)
        fast = thetas[-1]
        return fast if steps else fast.expand(support.x.shape[0], -1).clone(), losses

    def predict(self, fast: Tensor, x: Tensor) -> Tensor:
        return self._passes(Data(x, x), False).forward(fast).flatten(2)

    def hvp(self, fast: Tensor, support: Data, vectors: Tensor) -> Tensor:
        return self.linearise(fast, support)[1](vectors)

    def linearise(self, fast: Tensor, support: Data) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The gradient of each task's loss at fast [T, P], and vectors [T, P] ↦ products with its Hessian [T, P]."""
        passes, losses = self._passes(support, True), fast.new_empty(fast.shape[0])
        parts = self._gradient(support)
        passes.forward(fast)
        passes.backward(fast, losses, parts)
        gradient = parts.sum(0)

        def product(vectors: Tensor) -> Tensor:
            passes.product(fast, vectors, losses, parts)
            return parts.sum(0)

        return gradient, product

    def _passes(self, data: Data, tangents: bool) -> Passes:
        if len(data.x) > MAX_TASKS:
            raise ValueError(
                f"tasks: given {len(data.x)} at a time; kernels of single layers take at most {MAX_TASKS}: "
                "take fewer and accumulate gradients"
            )
        return Passes(self.stages, self.loss, self.precision, data, tangents)

    def _gradient(self, data: Data) -> Tensor:
        """[S, T, P], as many partial sums as the longest sum over positions needs."""
        splits = max(stage.conv.splits(data.x.shape[1], self.precision) for stage in self.stages)
        return data.x.new_empty(splits, data.x.shape[0], self.size)

    def _steps(self, theta: Tensor, inner_lr: Tensor, passes: Passes, steps: int) -> tuple[list[Tensor], Tensor]:
        """θ_0 [P] or [T, P], θ_1 … θ_K [T, P]; support losses [T, K]."""
        data = passes.data
        tasks = data.x.shape[0]
        thetas, gradient = [theta], self._gradient(data)
        losses = theta.new_empty(tasks, steps)
        for step in range(steps):
            passes.forward(thetas[-1])
            passes.backward(thetas[-1], losses[:, step], gradient)
            after = theta.new_empty(tasks, self.size)
            update(thetas[-1], gradient, inner_lr, after, after, "step")
            thetas.append(after)
        return thetas, losses

    def _reverse(
        self, thetas: list[Tensor], passes: Passes, inner_lr: Tensor, adjoint: Tensor, direction: Tensor, through: bool,
        lr_sums: Tensor | None,
    ) -> Tensor | None:  # fmt: skip
        """λ_1 into adjoint; gives H_0 (A∘λ_1) [S, T, P], still to be subtracted; None for the first order."""
        steps = len(thetas) - 1
        if not through and lr_sums is None:
            return None
        gradient, spare = self._gradient(passes.data), adjoint.new_empty(len(adjoint))
        for step in reversed(range(steps)):
            theta = thetas[step]
            if step < steps - 1 or lr_sums is not None:  # else the maps still are those of this step
                passes.forward(theta)
                passes.backward(theta, spare, gradient)
            if lr_sums is not None:
                update(adjoint, gradient, inner_lr, lr_sums, lr_sums, "lr")
            if through:
                passes.product(theta, direction, spare, gradient)
            if through and step:
                update(adjoint, gradient, inner_lr, adjoint, direction, "reverse")
        return gradient if through else None
