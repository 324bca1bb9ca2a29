"""What MAML works out once of a model, and anew when the model changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from fastmaml import checks, engines
from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Engine
from fastmaml.inner_lr import InnerLrOf, by_slot
from fastmaml.plan import InnerLr, Plan

if TYPE_CHECKING:
    from fastmaml.maml import MAML

Result = TypeVar("Result")
_ENOUGH = 64  # shapes of batches remembered


class ModelWatch:
    """Notices, at about two microseconds a look, that a model's mode, parameters, hooks or children have changed."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.modules = list(model.modules())
        self.places = [(m._parameters, key) for m in self.modules for key, p in m._parameters.items() if p is not None]
        self.children = [m._modules for m in self.modules if m._modules]
        self.buffers = [m._buffers for m in self.modules if m._buffers]
        self.hooks = [
            hooks for m in self.modules for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        ]
        self.seen: tuple[Any, ...] = ()
        self.seen = self.look()

    def look(self) -> tuple[Any, ...]:
        parameters = [of_module.get(key) for of_module, key in self.places]
        return (
            [module.training for module in self.modules],
            [*map(id, parameters)],
            [p is not None and p.requires_grad for p in parameters],
            [id(child) for children in self.children for child in children.values()],
            [buffer is None for buffers in self.buffers for buffer in buffers.values()],
            any(self.hooks),
        )

    def changed(self) -> bool:
        return self.look() != self.seen


class State:
    """A model in one mode, dtype and place: its Plan, the engines that run it, and the inner lr."""

    def __init__(self, maml: MAML) -> None:
        self.watch = ModelWatch(maml.model)
        self.plan = Plan.of(maml.model, maml.loss, maml.adapted, maml.meta_learned)
        self.parameters: list[Tensor] = list(maml.model.parameters())
        self.like = self.parameters[0].detach()
        self.wired = [index for index, slot in enumerate(self.plan.slots) if slot.meta_learned]
        self.wired_parameters = [self.parameters[index] for index in self.wired]
        self.rates = by_slot(maml.lr, self.plan)
        self.learns_lr, self.rule, self.asked = maml.learn_lr, maml.rule, maml.asked_engine
        self.engines, self.refusals = self._choose()
        self._checked: dict[tuple[Any, ...], list[Engine]] = {}
        self._output_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._inner_lr: InnerLrOf | None = None

    @property
    def is_current(self) -> bool:
        first = self.parameters[0]
        same = first.dtype == self.like.dtype and first.device == self.like.device
        return same and not self.watch.changed()

    def _choose(self) -> tuple[list[Engine], list[tuple[str, str]]]:
        arguments = (self.plan, self.rule, self.like.device, self.like.dtype, self._described_lr())
        if self.asked == "auto":
            return engines.candidates(*arguments)
        engine = self.asked if isinstance(self.asked, Engine) else engines.get(self.asked)
        reason = engine.refusal(*arguments)
        if reason is not None:
            raise ValueError(f"engine: {engine.name!r} does not run this model: {reason}. Or leave engine='auto'")
        return [engine], []

    def _described_lr(self) -> InnerLr:
        """An InnerLr of this kind, for an engine to say whether it takes it; its values are not the true ones."""
        return InnerLr(self.like.new_empty(0), self.learns_lr != "element", bool(self.learns_lr))

    def flatten(self, parameters: Sequence[Tensor]) -> Tensor:
        """[P], in no graph."""
        return self.plan.flatten(parameters).detach()

    def inner_lr(self) -> InnerLrOf:
        if self._inner_lr is None:
            self._inner_lr = InnerLrOf(self.plan, self.rates, self.like)
        return self._inner_lr

    def check_parameters(self) -> None:
        """The flat vector has one dtype and one device."""
        for slot, parameter in zip(self.plan.slots, self.parameters, strict=True):
            if parameter.dtype != self.like.dtype or parameter.device != self.like.device:
                first = f"'{self.plan.slots[0].name}' is {self.like.dtype} on {self.like.device}"
                raise ValueError(
                    f"model: {first}, but '{slot.name}' is {parameter.dtype} on {parameter.device}; "
                    "all parameters must share one dtype and device: call model.to(...)"
                )
        if not self.like.is_floating_point():
            raise ValueError(f"model: parameters are {self.like.dtype}; allowed are floating-point numbers")

    def engines_for(self, *sets: tuple[str, Samples]) -> list[Engine]:
        """Checks the samples, of which `sets` are (name, samples), and gives the engines that take them."""
        try:
            key = tuple(chain.from_iterable(checks.signature(samples) for _, samples in sets))
        except AttributeError:
            key = ()
        found = self._checked.get(key)
        if found is None:
            found = self._check(sets)
            if len(self._checked) >= _ENOUGH:
                self._checked.clear()
            self._checked[key] = found
        return self._look(found, sets)

    def _check(self, sets: Sequence[tuple[str, Samples]]) -> list[Engine]:
        self.check_parameters()
        if len(sets) == 2:
            TaskBatch(sets[0][1], sets[1][1]).check()
        obstacle = None
        for name, samples in sets:
            samples.check(name)
            obstacle = self.check_x(f"{name}.x", samples.x) or obstacle
            checks.check_weights_kind(name, samples, self.like)
            if self.plan.loss_name is not None:
                checks.check_targets(name, samples, self.plan, self._probed(name, samples.x), self.like)
        return self.taking(obstacle)

    def check_x(self, name: str, x: Tensor) -> str | None:
        """Raises ValueError for x that the model cannot take; gives why engines that run layers cannot take it."""
        checks.check_inputs(name, x, self.plan, self.like)
        checks.check_counts(name, x.shape[1], self.plan)
        return self.plan.shape_obstacle(tuple(x.shape[2:]))

    def taking(self, obstacle: str | None) -> list[Engine]:
        taking = [engine for engine in self.engines if obstacle is None or not engine.needs_layers]
        if not taking:
            raise ValueError(f"engine: {self.engines[0].name!r} does not run this: {obstacle}. Or leave engine='auto'")
        return taking

    def _look(self, found: list[Engine], sets: Sequence[tuple[str, Samples]]) -> list[Engine]:
        """The checks that depend on numbers, of weights and labels."""
        weighted = [entry for entry in sets if entry[1].weights is not None]
        for name, samples in weighted:
            checks.check_weights(name, samples, self.plan)
        if weighted:
            found = self._taking_padding(found, [samples for _, samples in weighted])
        if self.plan.loss_name == "cross_entropy" and not found[0].checks_labels:
            for name, samples in sets:
                checks.check_labels(name, samples, self._probed(name, samples.x)[0])
        return found

    def _taking_padding(self, found: list[Engine], sets: list[Samples]) -> list[Engine]:
        taking, reason = [], None
        for engine in found:
            refusals = [engine.data_refusal(self.plan, samples) for samples in sets]
            reason = next((refusal for refusal in refusals if refusal is not None), None)
            if reason is None:
                taking.append(engine)
        if not taking:
            raise ValueError(f"engine: {found[-1].name!r} does not run this: {reason}. Or leave engine='auto'")
        return taking

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
        parameters = self.flatten(self.parameters)[None]
        devices = [] if x.device.type == "cpu" else [x.device]
        try:
            with torch.random.fork_rng(devices, device_type=x.device.type if devices else "cuda"):
                outputs = engines.get("reference").predict(self.plan, parameters, x[:1].detach())
        except Exception as error:  # the model may raise anything
            raise ValueError(
                f"{name}.x: the model cannot run on samples of shape {list(x.shape[2:])}, of type {x.dtype}: {error}"
            ) from error
        return tuple(outputs.shape[2:])

    def run(self, found: list[Engine], verb: Callable[[Engine], Result]) -> Result:
        """The verb on the first of the engines. Where torch.func cannot transform a model, the next one runs it."""
        failed: list[tuple[Engine, Exception]] = []
        for engine in found[:-1]:
            try:
                return verb(engine)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError) as error:
                failed.append((engine, error))
        result = verb(found[-1])
        for engine, error in failed:
            self._give_up(engine, error)
        return result

    def _give_up(self, engine: Engine, error: Exception) -> None:
        self.engines = [other for other in self.engines if other is not engine]
        self.refusals.append((engine.name, f"it failed on this model: {str(error).splitlines()[0]}"))
        self._checked.clear()

    def explain(self) -> str:
        chosen = self.engines[0]
        asked = "the fastest that runs this model" if self.asked == "auto" else "as asked for"
        lines = [f"engine {chosen.name!r}, {asked}."]
        refusals = self.refusals
        if self.asked != "auto":
            arguments = (self.plan, self.rule, self.like.device, self.like.dtype, self._described_lr())
            able, refusals = engines.candidates(*arguments)
            lines += [f"{engine.name!r} would run it too, and is faster." for engine in _faster(able, chosen)]
        faster = {*engines.NAMES[: engines.rank(chosen.name)]}
        return "\n".join(lines + [f"Not {name!r}: {reason}." for name, reason in refusals if name in faster])


def _faster(able: list[Engine], chosen: Engine) -> list[Engine]:
    return [engine for engine in able if engines.rank(engine.name) < engines.rank(chosen.name)]
