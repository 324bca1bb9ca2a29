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

from .flat import Sink, sum_rows
from .mlp_launch import Data, MetaResult, Needs
from .passes import Passes
from .stages import Network, Stage, numbers_of

MAX_TASKS = 65535
"""Programs that a GPU takes in the second and third dimension of a grid."""


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
        # each by itself, since kernels are compiled for aligned memory
        copies = [theta.new_empty(tasks, self.size) for _ in range(steps)]
        adjoint, direction, other = (theta.new_empty(tasks, self.size) for _ in range(3))
        step_losses = theta.new_empty(tasks, steps)
        losses, spare, total = theta.new_empty(tasks), theta.new_empty(tasks), theta.new_empty(self.size)
        lr_sums = theta.new_zeros(tasks, self.size) if learned else None
        lr_gradient = None if lr_sums is None else torch.empty_like(total)
        # from here on kernels alone, and no memory is made between them
        thetas = self._steps(theta, inner_lr, passes, copies, step_losses)
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
        turns = [torch.empty_like(fast) for _ in range(2)]  # nobody asks for those before the last
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
