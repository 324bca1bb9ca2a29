"""One iteration of the outer loop: meta-loss, meta-gradient, clipping, the optimizer's step."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastmaml.batch import TaskBatch
from fastmaml.engines.base import Accumulated
from fastmaml.evaluation.metrics import task_accuracies
from fastmaml.maml import MAML
from fastmaml.training.fused_adam import FusedAdam, is_hooked
from fastmaml.training.nonfinite import NonFiniteStep

__all__ = ["MetaStep", "is_hooked"]


class MetaStep:
    """Updates the shared parameters by one meta-batch.

    Args:
        maml: whose parameters are updated.
        optimizer: any torch optimizer of them, also one whose step needs a closure (LBFGS).
        scheduler: stepped after every update; ReduceLROnPlateau is left to the trainer.
        clip_value: the largest magnitude of an element of the meta-gradient, None for no bound.
        clip_norm: the largest 2-norm of the meta-gradient, None for no bound.
    """

    def __init__(
        self,
        maml: MAML,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
    ) -> None:
        self.maml, self.optimizer = maml, optimizer
        self.scheduler = None if isinstance(scheduler, ReduceLROnPlateau) else scheduler
        self.clip_value, self.clip_norm = clip_value, clip_norm
        self._needs_closure = _needs_closure(optimizer)
        self._fused_adam = FusedAdam(optimizer)
        self._named = list(maml.named_parameters())
        held = [p for group in optimizer.param_groups for p in group["params"]]
        self._parameters = list({id(p): p for p in [*held, *maml.parameters()]}.values())

    def __call__(self, batch: TaskBatch, meanwhile: Callable[[], None] | None = None) -> tuple[float, float | None]:
        """Takes the step. It leaves its gradients where they are, for the next one to overwrite; see `clear`.

        Args:
            meanwhile: called before the results are waited for.
        Returns:
            the mean query loss before the update, and the mean query accuracy (None for regression).
        Raises:
            NonFiniteStep: where a loss or the meta-gradient is not finite; then the parameters are as before.
        """
        if self._needs_closure:
            done = self._closure_step(batch)
        else:
            done = self._gradient(batch)
            if not self._fused_adam.step():
                self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        accuracies = None if done.query_outputs is None else task_accuracies(done.query_outputs, batch.query)
        if meanwhile is not None:
            meanwhile()
        if accuracies is None:
            return done.loss.item(), None
        shares = batch.shares()
        return done.loss.item(), (accuracies.mean() if shares is None else accuracies @ shares.to(accuracies)).item()

    def clear(self) -> None:
        """Sets the gradients to None, and forgets where parameters and the optimizer's state lie."""
        self._fused_adam.forget()
        for parameter in self._parameters:
            parameter.grad = None

    def _gradient(self, batch: TaskBatch) -> Accumulated:
        done = self.maml.accumulate(batch, outputs=not batch.query.y.is_floating_point(), overwrite=True)
        if not done.finite:
            bad = [name for name, p in self._named if p.grad is not None and not p.grad.isfinite().all()]
            self.clear()
            assert done.query_losses is not None
            raise NonFiniteStep(done.query_losses, bad if done.loss.isfinite() else ())
        self.clip()
        return done

    def clip(self) -> None:
        """Bounds the gradients."""
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters, self.clip_value)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)

    def _closure_step(self, batch: TaskBatch) -> Accumulated:
        """The step of an optimizer that evaluates the loss several times; gives the first evaluation."""
        evaluations = []
        before = [p.detach().clone() for p in self._parameters]

        def closure() -> Tensor:
            evaluations.append(self._gradient(batch))
            return evaluations[-1].loss

        try:
            self.optimizer.step(closure)  # type: ignore[arg-type]  # its closure returns a tensor, as LBFGS's does
        except NonFiniteStep:
            torch._foreach_copy_([p.detach() for p in self._parameters], before)
            raise
        return evaluations[0]


def _needs_closure(optimizer: Optimizer) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty
