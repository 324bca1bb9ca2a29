"""Launches of the fully connected kernels: what a caller hands over, checked, and the grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .flat import sum_rows
from .mlp import _adapt_kernel, _hvp_kernel, _meta_kernel, _predict_kernel
from .mlp_network import Block, network, obstacle, padded, scratch_size

FLAT = 512


class Data(NamedTuple):
    """x [T, N, features], y [T, N, outputs] or int64 [T, N], weights [T, N] or None; contiguous."""

    x: Tensor
    y: Tensor
    weights: Tensor | None = None


class MetaResult(NamedTuple):
    """query losses [T], gradient [P], of the inner lr [P] or None, outputs [T, M, OUT], support losses [T, K]."""

    losses: Tensor
    gradient: Tensor
    lr_gradient: Tensor | None
    outputs: Tensor
    step_losses: Tensor


class Needs(NamedTuple):
    """Float32 numbers of memory that a task takes: fixed + step · K + sample · N, for `in_flight` tasks at most."""

    fixed: int
    step: int
    sample: int
    in_flight: int


@dataclass(frozen=True)
class Launcher:
    """The fully connected kernels of one network.

    Args:
        blocks: the network. size: P. loss: "mse" or "cross_entropy".
        precision: of products: "ieee", "tf32", "tf32x3" or "bf16" (operands; sums are float32).
        programs: how many the device keeps busy; each carries one task at a time.
    """

    blocks: tuple[Block, ...]
    size: int
    loss: str
    precision: str
    programs: int

    def meta_gradient(
        self, theta: Tensor, inner_lr: Tensor, support: Data, query: Data, steps: int, through: bool,
        learned: bool, kept: Tensor | None = None,
    ) -> MetaResult:  # fmt: skip
        """The gradient of the mean query loss over tasks at θ [P] after `steps` inner steps, in two or three launches.

        through: second order. learned: also the gradient of the inner lr. kept: [P], 0 where no gradient is wanted.
        """
        tasks, n = support.x.shape[:2]
        m, weighted = query.x.shape[1], support.weights is not None or query.weights is not None
        support_w, query_w = _weights(support, weighted), _weights(query, weighted)
        grid, out = min(tasks, self.programs), self.blocks[-1].outputs
        net = self._network(max(n, m), weighted)
        losses, step_losses = theta.new_empty(tasks), theta.new_empty(tasks, steps)
        outputs, sums = theta.new_empty(tasks, m, out), theta.new_empty(grid, self.size)
        lr_sums = torch.empty_like(sums) if learned else sums
        gradient, lr_gradient = torch.empty_like(theta), torch.empty_like(theta) if learned else None
        copies, vectors = theta.new_empty(grid, steps, self.size), theta.new_empty(grid, 3, self.size)
        scratch = theta.new_empty(grid, self._scratch(max(n, m)))
        _meta_kernel[(grid,)](
            theta, inner_lr, support.x, support.y, support_w, query.x, query.y, query_w, losses, outputs, step_losses,
            sums, lr_sums, copies, vectors, scratch, self.size, scratch.shape[1], tasks, steps, n, m,
            self.blocks[0].inputs, support.y[0].numel(), query.y[0].numel(), net, padded(n), padded(m),
            _mode(through, learned), FLAT, **self._options(max(n, m), tasks),
        )  # fmt: skip
        sum_rows(sums, gradient, mask=kept)
        if lr_gradient is not None:
            sum_rows(lr_sums, lr_gradient)
        return MetaResult(losses, gradient, lr_gradient, outputs, step_losses)

    def adapt(self, theta: Tensor, inner_lr: Tensor, support: Data, steps: int) -> tuple[Tensor, Tensor]:
        """Fast parameters [T, P] and support losses [T, K] from θ [P] or [T, P], in one launch."""
        tasks, n = support.x.shape[:2]
        grid, weighted = min(tasks, self.programs), support.weights is not None
        fast, losses = theta.new_empty(tasks, self.size), theta.new_empty(tasks, steps)
        copies = theta.new_empty(grid, max(steps, 1), self.size)
        scratch = theta.new_empty(grid, self._scratch(n))
        stride = self.size if theta.dim() == 2 else 0
        _adapt_kernel[(grid,)](
            theta, stride, inner_lr, support.x, support.y, _weights(support, weighted), fast, losses, copies, scratch,
            self.size, scratch.shape[1], tasks, steps, n, self.blocks[0].inputs, support.y[0].numel(),
            self._network(n, weighted), padded(n), FLAT, **self._options(n, tasks),
        )  # fmt: skip
        return fast, losses

    def hvp(self, fast: Tensor, support: Data, vectors: Tensor) -> Tensor:
        """Hessian of each task's support loss at fast [T, P] times vectors [T, P], in one launch."""
        tasks, n = support.x.shape[:2]
        grid, weighted = min(tasks, self.programs), support.weights is not None
        products = torch.empty_like(fast)
        scratch = fast.new_empty(grid, self._scratch(n))
        _hvp_kernel[(grid,)](
            fast, vectors, support.x, support.y, _weights(support, weighted), products, scratch, self.size,
            scratch.shape[1], tasks, n, self.blocks[0].inputs, support.y[0].numel(), self._network(n, weighted),
            padded(n), **self._options(n, tasks),
        )  # fmt: skip
        return products

    def predict(self, fast: Tensor, x: Tensor) -> Tensor:
        """Outputs [T, M, OUT] of fast parameters [T, P] on x [T, M, features], in one launch."""
        tasks, n = x.shape[:2]
        grid = min(tasks, self.programs)
        outputs = fast.new_empty(tasks, n, self.blocks[-1].outputs)
        scratch = fast.new_empty(grid, self._scratch(n))
        _predict_kernel[(grid,)](
            fast, x, outputs, scratch, self.size, scratch.shape[1], tasks, n, self.blocks[0].inputs,
            self._network(n, False), padded(n), FLAT, **self._options(n, tasks),
        )  # fmt: skip
        return outputs

    def needs(self, support: int, query: int) -> Needs:
        """For sets of so many samples; N counts where no larger query set takes its room."""
        scratch, sample = self._scratch(max(support, query)), scratch_size(self.blocks, 1)
        if query >= support:
            return Needs(4 * self.size + scratch, self.size, 0, self.programs)
        return Needs(4 * self.size + scratch - support * sample, self.size, sample, self.programs)

    def _options(self, samples: int, tasks: int) -> dict[str, Any]:
        return options(self.blocks, samples, tasks, self.programs)

    def _scratch(self, samples: int) -> int:
        return scratch_size(self.blocks, padded(samples))

    def _network(self, samples: int, weighted: bool) -> tuple[Any, ...]:
        """The constexpr NET."""
        problem = obstacle(self.blocks, samples)
        if problem is not None:
            raise ValueError(f"samples: {problem}; take the kernels of single layers")
        return network(self.blocks, samples, self.loss, weighted, self.precision)


def options(blocks: tuple[Block, ...], samples: int, tasks: int, programs: int) -> dict[str, Any]:
    """Launch options: many warps to a task, one where tasks are plenty and narrow. With four, registers spill."""
    wide = max(max(block.inputs, block.outputs) for block in blocks) > 64 or padded(samples) > 32
    warps = 1 if tasks >= programs and not wide else 8
    return {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}


def _mode(through: bool, learned: bool) -> str:
    if through:
        return "reverse+lr" if learned else "reverse"
    return "lr" if learned else "none"


def _weights(data: Data, weighted: bool) -> Tensor:
    """Weights, or whatever pointer stands in for those that no one reads."""
    if data.weights is not None:
        return data.weights
    return data.x.new_ones(data.x.shape[:2]) if weighted else data.x
