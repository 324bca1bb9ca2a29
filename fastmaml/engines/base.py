"""What an engine does: four verbs, all batched over tasks, and for two of them a leaner form where it has one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastmaml.batch import Samples, TaskBatch
from fastmaml.gradients import GradientRule
from fastmaml.plan import InnerLr, Plan


@dataclass(frozen=True, eq=False)
class MetaGradient:
    """What `Engine.meta_gradient` gives.

    Args:
        query_losses: [T].
        gradient: [P], of the mean query loss over tasks; zero where a parameter is not meta-learned.
        inner_lr_gradient: [P], of the same with respect to InnerLr.values; None unless that is learned.
        query_outputs: [T, M, ...]; rows of padding (weight 0) hold no meaning.
    """

    query_losses: Tensor
    gradient: Tensor
    inner_lr_gradient: Tensor | None
    query_outputs: Tensor


class Accumulated(NamedTuple):
    """What `PreparedStep.accumulate` gives beside the gradients.

    Args:
        loss: the mean query loss [].
        finite: whether the loss and all of the meta-gradient are.
        query_losses: [T]; may be None where all is finite.
        query_outputs: [T, M, ...], if asked for; rows of padding hold no meaning.
    """

    loss: Tensor
    finite: bool
    query_losses: Tensor | None
    query_outputs: Tensor | None


class Differentiated(NamedTuple):
    """What `PreparedStep.meta_gradient` gives.

    Args:
        loss: the mean query loss [].
        gradient: [P]; where a parameter is not meta-learned, it has no meaning.
        query_losses: [T], and
        query_outputs: [T, M, ...], if asked for; rows of padding hold no meaning.
        pieces: (gradient, scale []) ↦ their product, as one new tensor for each meta-learned parameter; None where
            scale is no plain tensor of the gradient's dtype and place.
    """

    loss: Tensor
    gradient: Tensor
    query_losses: Tensor | None
    query_outputs: Tensor | None
    pieces: Callable[[Tensor, Tensor], Sequence[Tensor] | None]


class PreparedStep(ABC):
    """The meta-gradient of a network's own parameters on meta-batches of one form, with all else worked out before."""

    @property
    @abstractmethod
    def seconds(self) -> float:
        """What the last call took that did not fail, beyond what leads to it: what no Python can take off."""

    @abstractmethod
    def takes(self, batch: TaskBatch) -> bool:
        """Whether a meta-batch is of that form: contiguous, of the same shapes and dtypes, on the same device."""

    @abstractmethod
    def accumulate(
        self, batch: TaskBatch, steps: int, rule: GradientRule, outputs: bool, overwrite: bool
    ) -> Accumulated | None:
        """Adds the meta-gradient to the parameters' `.grad`, which it makes where there is none.

        Args:
            steps: inner steps ≥ 1.
            outputs: whether query outputs are wanted.
            overwrite: write over gradients that are there instead of adding to them.
        Returns:
            None, with nothing changed, where the batch is not of the form, parameters or gradients are not contiguous
            or have changed their form, a hook on a parameter waits for a gradient, some parameters have gradients and
            some none, or the loss is not finite.
        """

    @abstractmethod
    def meta_gradient(self, batch: TaskBatch, steps: int, rule: GradientRule, details: bool) -> Differentiated | None:
        """The meta-gradient as one vector.

        Args:
            steps: inner steps ≥ 1.
            details: whether query losses and outputs are wanted.
        Returns:
            None where the batch is not of the form, parameters are not contiguous or have changed their form, or the
            loss is not finite.
        """


@contextmanager
def autograd(enabled: bool) -> Iterator[None]:
    """Autograd on or off, whatever the caller has set, with attention that has second derivatives."""
    with torch.inference_mode(False), torch.set_grad_enabled(enabled), sdpa_kernel(SDPBackend.MATH):
        yield


@dataclass(frozen=True, eq=False)
class Linearised:
    """What `Engine.linearise` gives.

    Args:
        gradient: of each task's loss [T, P]; None where it was promised to be zero.
        product: vectors [T, P], or [P] for all tasks, ↦ Hessian-vector products [T, P].
    """

    gradient: Tensor | None
    product: Callable[[Tensor], Tensor]


def task_gradients(plan: Plan, fast: Tensor, samples: Samples) -> Tensor:
    """The gradient of each task's loss at fast [T, P], by autograd: [T, P]."""
    weights = samples.weights if samples.weights is not None else [None] * samples.num_tasks
    gradients = []
    for start, x, y, weight in zip(fast, samples.x, samples.y, weights, strict=True):
        real = slice(None) if weight is None else weight > 0  # padding has no part even in batch statistics
        with autograd(True):
            theta = start.detach().requires_grad_()
            outputs = functional_call(plan.module, plan.unflatten(theta), (x[real],))
            loss = plan.loss_fn(outputs, y[real], None if weight is None else weight[real])
            (gradient,) = torch.autograd.grad(loss, theta)
        gradients.append(gradient)
    return torch.stack(gradients)


class Engine(ABC):
    """Executes a Plan on tasks. Results are fresh tensors that no autograd graph knows."""

    name: ClassVar[str]
    #: whether it runs Plan.layers only, rather than calling Plan.module
    needs_layers: ClassVar[bool] = True
    #: whether it checks class labels itself, so that no one needs to look at them before
    checks_labels: ClassVar[bool] = False
    #: whether nothing it does waits for the device, so that its launches can be captured as a CUDA graph
    capturable: ClassVar[bool] = False
    #: whether its meta-gradient takes weights of tasks, TaskBatch.weights
    weighs_tasks: ClassVar[bool] = True
    #: whether it has `prepare`; then it `checks_labels`, too
    accumulates: ClassVar[bool] = False

    @abstractmethod
    def refusal(
        self,
        plan: Plan,
        rule: GradientRule | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        inner_lr: InnerLr | None = None,
    ) -> str | None:
        """Why this engine cannot run the plan, naming the layer or argument; None if it can. None = not asked."""

    def data_refusal(self, plan: Plan, samples: Samples) -> str | None:
        """Why this engine cannot run the plan on these samples, where that depends on their numbers."""
        return None

    @abstractmethod
    def adapt(
        self, plan: Plan, parameters: Tensor, inner_lr: InnerLr, support: Samples, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Takes `steps` ≥ 0 inner steps.

        Args:
            parameters: [P], where all tasks start, or [T, P].
        Returns:
            fast parameters [T, P]; support losses [T, steps], each taken before its step.
        """

    @abstractmethod
    def meta_gradient(
        self,
        plan: Plan,
        parameters: Tensor,
        inner_lr: InnerLr,
        batch: TaskBatch,
        steps: int,
        rule: GradientRule,
    ) -> MetaGradient:
        """The gradient of the mean query loss after `steps` ≥ 1 inner steps from parameters [P].

        The mean is over tasks, weighted by `batch.shares()` where it has any.
        """

    def prepare(
        self, plan: Plan, parameters: Sequence[Tensor], like: Tensor, inner_lr: InnerLr, batch: TaskBatch
    ) -> PreparedStep:
        """`meta_gradient` on many meta-batches like this one, of tensors of their own.

        Args:
            parameters: one of each slot; they are kept, and looked at anew in each call.
            like: a tensor of their dtype and device.
            inner_lr: a fixed one.
            batch: as the verbs take it, with plain tensors.
        """
        raise NotImplementedError(f"engine {self.name!r} does not accumulate")

    @abstractmethod
    def predict(self, plan: Plan, fast: Tensor, x: Tensor) -> Tensor:
        """Outputs [T, M, ...] of fast parameters [T, P] on inputs x [T, M, ...]."""

    @abstractmethod
    def hvp(self, plan: Plan, fast: Tensor, support: Samples, vectors: Tensor) -> Tensor:
        """Hessian of each task's support loss at fast [T, P], times vectors [T, P]: [T, P]."""

    def linearise(self, plan: Plan, fast: Tensor, support: Samples, stationary: bool = False) -> Linearised:
        """The gradient, and `hvp` for many vectors, as a conjugate gradient has them: what they share is kept.

        Args:
            fast: [P], the same for all tasks, or [T, P].
            stationary: a promise that the loss's gradient in the outputs is zero, as that of a KL divergence at its
                minimum: terms with it may be left out, and what remains is the Gauss-Newton product.
        """
        starts = fast.expand(support.num_tasks, -1).contiguous()
        return Linearised(
            None if stationary else task_gradients(plan, starts, support),
            lambda vectors: self.hvp(plan, starts, support, vectors.expand_as(starts).contiguous()),
        )
