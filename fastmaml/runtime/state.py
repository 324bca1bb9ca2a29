"""What MAML works out once of a model, and anew when the model changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastmaml import engines
from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine, PreparedStep
from fastmaml.engines.choice import EngineChoice
from fastmaml.losses import as_callable, is_of_torch
from fastmaml.plan import InnerLr, Plan
from fastmaml.plan.inner_lr import InnerLrOf, by_slot
from fastmaml.plan.statistics import updates_statistics
from fastmaml.runtime import checks
from fastmaml.runtime.options import Options
from fastmaml.runtime.watch import ModelWatch

_REMEMBERED = 64  # shapes of batches


class Admitted(NamedTuple):
    """What checking samples of some shapes and types has given.

    obstacle: why engines that run layers cannot take them. plain: `checks.is_plain`. weighted: whether any has weights.
    """

    obstacle: str | None
    plain: bool
    weighted: bool


Sets = tuple[tuple[str, Samples], ...]


class State:
    """A model in one mode, dtype and place: its Plan, the engines that run it, and what it takes as input.

    is_stale: () -> whether the model has changed since.
    """

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.model = model
        self.is_stale = ModelWatch(_watched(model, options.loss)).changed
        self.plan = Plan.of(model, options.loss, options.adapted, options.meta_learned, options.batch_norm)
        self.parameters: list[Tensor] = list(model.parameters())
        self.like = self.parameters[0].detach()
        self.wired = [index for index, slot in enumerate(self.plan.slots) if slot.meta_learned]
        self.wired_parameters = [self.parameters[index] for index in self.wired]
        self.adapts = options.adapted is not None or any(slot.adapted for slot in self.plan.slots)
        running = options.batch_norm == "running"
        self.updates_statistics = running and any(map(updates_statistics, model.modules()))
        self._options = options
        self.choice = self._choose()
        self._admitted: dict[tuple[Any, ...], Admitted] = {}
        self._last: tuple[tuple[Any, ...], Admitted] = ((), Admitted(None, True, False))
        self._share = self.like.new_empty(0)
        self._output_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.set_lr(options)

    def _choose(self) -> EngineChoice:
        options = self._options
        kind = InnerLr(self.like.new_empty(0), options.learn_lr != "element", bool(options.learn_lr))
        return EngineChoice(options.engine, self.plan, options.rule, self.like, kind)

    def set_lr(self, options: Options) -> None:
        """Takes another inner step size. Raises TypeError or ValueError, naming it; then nothing has changed."""
        self.rates = by_slot(options.lr, self.plan)
        self._options = options
        self._inner_lr: InnerLrOf | None = None
        self.prepared: PreparedStep | None = None  # for meta-batches of the form of the last

    def flatten(self, parameters: Sequence[Tensor]) -> Tensor:
        """[P]. Raises ValueError where a parameter has changed its shape in place."""
        for parameter, slot in zip(parameters, self.plan.slots, strict=True):
            if parameter.shape != slot.shape:
                raise ValueError(
                    f"model: parameter '{slot.name}' now has shape {list(parameter.shape)}, not {list(slot.shape)}; "
                    "replace a parameter that changes its shape by a new nn.Parameter"
                )
        return self.plan.flatten(parameters)

    def mean(self, losses: Tensor, shares: Tensor | None = None) -> Tensor:
        """The mean of [T], on CPUs to the last bit as the core gives it: summed in float64, one after the other.

        Args:
            shares: of each task [T], which sum to 1; None for equal ones.
        """
        if shares is not None:
            return torch.dot(losses.double(), shares.double()).to(losses.dtype)
        if losses.device.type == "cpu":
            return (losses.cumsum(0, dtype=torch.float64)[-1] / len(losses)).to(losses.dtype)
        if len(self._share) != len(losses):
            self._share = losses.new_full(losses.shape, 1 / len(losses))
        return torch.dot(losses, self._share)

    @property
    def inner_lr(self) -> InnerLrOf:
        if self._inner_lr is None:
            self._inner_lr = InnerLrOf(self.plan, self.rates, self.like)
        return self._inner_lr

    def admit(self, batch: TaskBatch) -> tuple[list[Engine], TaskBatch]:
        """Checks a meta-batch.

        Returns:
            the engines that take it, the first to be used first; the batch as they take it, with plain tensors.
        Raises:
            TypeError, ValueError: naming the argument, what was given and what is allowed.
        """
        sets = (("support", batch.support), ("query", batch.query))
        try:
            key = (*checks.signature(batch.support), *checks.signature(batch.query))
        except (AttributeError, TypeError, RuntimeError):  # no ordinary tensor, as the check will say
            key = ()
        admitted = self._admit(key, sets)
        found = self._found(admitted, sets)
        weights = batch.weights
        if weights is not None:
            checks.check_task_weights(weights, batch.num_tasks, self.like)
            found = self.choice.for_weights(found)
        if not admitted.plain or weights is not None:
            weights = None if weights is None else checks.plain(weights)
            batch = TaskBatch(checks.plain_samples(batch.support), checks.plain_samples(batch.query), weights)
        return found, batch

    def admit_support(self, support: Samples) -> tuple[list[Engine], Samples]:
        """As `admit`, for a support set alone."""
        sets = (("support", support),)
        try:
            key = checks.signature(support)
        except (AttributeError, TypeError, RuntimeError):
            key = ()
        admitted = self._admit(key, sets)
        found = self._found(admitted, sets)
        return found, support if admitted.plain else checks.plain_samples(support)

    def admit_inputs(self, x: Tensor, fast: Tensor) -> list[Engine]:
        """As `admit`, for inputs x [T, M, ...] of networks with parameters fast [T, P]."""
        tasks = len(fast)
        if (fast.shape[1], fast.dtype, fast.device) != (self.plan.num_parameters, self.like.dtype, self.like.device):
            raise ValueError(
                f"adapted: {fast.dtype} {list(fast.shape)} on {fast.device}, but the model now has "
                f"{self.plan.num_parameters} parameters of {self.like.dtype} on {self.like.device}; adapt it anew"
            )
        Samples(x, x).check("")
        if x.shape[0] != tasks:
            raise ValueError(
                f"x: given shape {list(x.shape)}; allowed is [{tasks}, M, ...], as {tasks} tasks are adapted"
            )
        obstacle = self._check_x("x", x)
        self._probed("x", x)
        return self.choice.for_shapes(obstacle)

    def _admit(self, key: tuple[Any, ...], sets: Sets) -> Admitted:
        """What depends on shapes and types alone is checked once for each `key`."""
        seen, admitted = self._last
        if key != seen or not key:
            admitted = self._admitted.get(key) or self._check(sets)
            if len(self._admitted) >= _REMEMBERED:
                self._admitted.clear()
            self._admitted[key] = admitted
            self._last = key, admitted
        return admitted

    def _check(self, sets: Sets) -> Admitted:
        checks.check_parameters(self.plan, self.parameters)
        for name, samples in sets:
            samples.check(name)
        checks.check_tasks(sets)
        obstacle = None
        for name, samples in sets:
            obstacle = self._check_x(f"{name}.x", samples.x) or obstacle
            checks.check_weights_kind(name, samples, self.like)
            self._check_targets(name, samples)
        plain = all(checks.is_plain(samples) for _, samples in sets)
        return Admitted(obstacle, plain, any(samples.weights is not None for _, samples in sets))

    def _check_targets(self, name: str, samples: Samples) -> None:
        if self.plan.loss_name is None:
            return
        outputs = self._probed(f"{name}.x", samples.x)
        dense = len(outputs) != 1 or samples.y.is_floating_point()
        if dense and self.plan.loss_name == "cross_entropy" and is_of_torch(self._options.loss):
            self._call_loss()
        else:
            checks.check_targets(name, samples, self.plan, outputs, self.like)

    def _call_loss(self) -> None:
        """Takes torch's cross-entropy as any callable: of labels for each pixel, or of probabilities."""
        assert callable(self._options.loss)
        self.plan = replace(self.plan, loss_name=None, loss_fn=as_callable(self._options.loss))
        self.choice = self._choose()
        self._admitted.clear()
        self.set_lr(self._options)

    def _check_x(self, name: str, x: Tensor) -> str | None:
        """Raises ValueError for x that the model cannot take; gives why engines that run layers cannot take it."""
        checks.check_inputs(name, x, self.plan, self.like)
        checks.check_counts(name, x.shape[1], self.plan)
        return self.plan.shape_obstacle(tuple(x.shape[2:]))

    def _found(self, admitted: Admitted, sets: Sets) -> list[Engine]:
        """The engines for these samples, after the checks that depend on numbers: of weights and labels."""
        found = self.choice.for_shapes(admitted.obstacle)
        if admitted.weighted:
            for name, samples in sets:
                checks.check_weights(name, samples, self.plan)
                found = self.choice.for_data(found, samples)
        if self.plan.loss_name == "cross_entropy" and not found[0].checks_labels:
            for name, samples in sets:
                checks.check_labels(name, samples, self._probed(f"{name}.x", samples.x)[0])
        return found

    def output_shape(self, sample: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the output of one sample of this shape, as far as it is known without running the model."""
        if self.plan.num_outputs is not None and self.plan.shape_obstacle(sample) is None:
            return (self.plan.num_outputs,)
        return self._output_shapes.get(sample)

    def _probed(self, name: str, x: Tensor) -> tuple[int, ...]:
        sample = tuple(x.shape[2:])
        known = self.output_shape(sample)
        if known is None:
            known = self._output_shapes[sample] = self._probe(name, x)
        return known

    def _probe(self, name: str, x: Tensor) -> tuple[int, ...]:
        try:
            return self._outputs_of(x[:1])
        except Exception as error:  # the model may raise anything
            given = f"{name}: the model cannot run on samples of shape {list(x.shape[2:])}, of {x.dtype}: {error}"
            one_task = f". x is perhaps {checks.ONE_TASK}" if self._runs_on_one_task(x) else ""
            raise ValueError(given + one_task) from error

    def _runs_on_one_task(self, x: Tensor) -> bool:
        try:
            return bool(self._outputs_of(x[None]))
        except Exception:
            return False

    def _outputs_of(self, x: Tensor) -> tuple[int, ...]:
        """Runs the model on one task [1, N, ...], without a trace in the random state."""
        device = x.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=_generator_of(device)):
            fast = self.flatten(self.parameters).detach()[None]
            outputs = engines.get("reference").predict(self.plan, fast, x.detach())
        return tuple(outputs.shape[2:])


def _watched(model: nn.Module, loss: object) -> nn.Module:
    """A loss that is a module has settings, too: of some the kernels know the loss by its name."""
    return nn.ModuleList([model, loss]) if isinstance(loss, nn.Module) else model


def _generator_of(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type
