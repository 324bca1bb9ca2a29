"""What MAML works out once of a model, and anew when the model changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fastmaml import checks, engines
from fastmaml.batch import Samples, TaskBatch
from fastmaml.choice import EngineChoice
from fastmaml.engines.base import Engine, PreparedStep
from fastmaml.inner_lr import InnerLrOf, by_slot
from fastmaml.plan import InnerLr, Plan
from fastmaml.watch import ModelWatch

if TYPE_CHECKING:
    from fastmaml.maml import MAML

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
    """A model in one mode, dtype and place: its Plan, the engines that run it, and what it takes as input."""

    def __init__(self, maml: MAML) -> None:
        self.watch = ModelWatch(maml.model)
        self.plan = Plan.of(maml.model, maml.loss, maml.adapted, maml.meta_learned)
        self.parameters: list[Tensor] = list(maml.model.parameters())
        self.like = self.parameters[0].detach()
        self.wired = [index for index, slot in enumerate(self.plan.slots) if slot.meta_learned]
        self.wired_parameters = [self.parameters[index] for index in self.wired]
        self.adapts = maml.adapted is not None or any(slot.adapted for slot in self.plan.slots)
        self.rates = by_slot(maml.lr, self.plan)
        kind = InnerLr(self.like.new_empty(0), maml.learn_lr != "element", bool(maml.learn_lr))
        self.choice = EngineChoice(maml.asked_engine, self.plan, maml.rule, self.like, kind)
        self.prepared: PreparedStep | None = None  # for meta-batches of the form of the last
        self._admitted: dict[tuple[Any, ...], Admitted] = {}
        self._last: tuple[tuple[Any, ...], Admitted] = ((), Admitted(None, True, False))
        self._share = self.like.new_empty(0)
        self._output_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._inner_lr: InnerLrOf | None = None

    def flatten(self, parameters: Sequence[Tensor]) -> Tensor:
        """[P]. Raises ValueError where a parameter has changed its size in place."""
        flat = self.plan.flatten(parameters)
        if flat.numel() != self.plan.num_parameters:
            raise ValueError(
                f"model: its parameters now have {flat.numel()} elements, not {self.plan.num_parameters}; "
                "replace a parameter that changes its shape by a new nn.Parameter"
            )
        return flat

    def mean(self, losses: Tensor) -> Tensor:
        """The mean of [T], on CPUs to the last bit as the core gives it: summed in float64, one after the other."""
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
        except (AttributeError, TypeError):  # no tensor, as the check will say
            key = ()
        admitted = self._admit(key, sets)
        found = self._found(admitted, sets)
        if not admitted.plain:
            batch = TaskBatch(checks.plain_samples(batch.support), checks.plain_samples(batch.query))
        return found, batch

    def admit_support(self, support: Samples) -> tuple[list[Engine], Samples]:
        """As `admit`, for a support set alone."""
        sets = (("support", support),)
        try:
            key = checks.signature(support)
        except (AttributeError, TypeError):
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
            if self.plan.loss_name is not None:
                checks.check_targets(name, samples, self.plan, self._probed(f"{name}.x", samples.x), self.like)
        plain = all(checks.is_plain(samples) for _, samples in sets)
        return Admitted(obstacle, plain, any(samples.weights is not None for _, samples in sets))

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
        """Runs the model on the first task, without a trace in the random state."""
        device = x.device
        try:
            with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=_generator_of(device)):
                fast = self.flatten(self.parameters).detach()[None]
                outputs = engines.get("reference").predict(self.plan, fast, x[:1].detach())
        except Exception as error:  # the model may raise anything
            raise ValueError(
                f"{name}: the model cannot run on samples of shape {list(x.shape[2:])}, of {x.dtype}: {error}"
            ) from error
        return tuple(outputs.shape[2:])


def _generator_of(device: torch.device) -> str:
    return "cuda" if device.type == "cpu" else device.type
