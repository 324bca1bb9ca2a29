"""Whether a model and a loss are meta-learned as their code says: the meta-gradient against finite differences."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import SecondOrder
from fastmaml.plan import ParameterSlot
from fastmaml.plan.task_losses import task_losses

if TYPE_CHECKING:
    from fastmaml.maml import MAML

_STEP = 1e-6  # of finite differences, against parameters of size 1
_TOLERANCE = 1e-4  # relative
_NOTHING = 1e-8  # relative to the largest slope: below it finite differences are rounding
_TRIES = 3  # directions; the first may cross the kink of a ReLU

VERDICTS = {
    "agrees": "agrees",
    "frozen": "gets none, as requires_grad=False or meta_learned= say",
    "unused": "gets none: the loss does not depend on it",
    "lost": "GETS NONE, though the loss depends on it: the forward pass uses it by .data, .detach(), a copy, or under "
    "torch.no_grad()",
    "wrong": "IS WRONG: an operation of the forward pass or the loss has a derivative that is not its own",
}


@dataclass(frozen=True)
class ParameterCheck:
    """One parameter's meta-gradient along a random direction.

    Args:
        name: as in model.named_parameters().
        slope: by finite differences of the query loss after adaptation.
        given: by the meta-gradient.
        verdict: a key of `VERDICTS`.
    """

    name: str
    slope: float
    given: float
    verdict: str


@dataclass(frozen=True)
class Diagnosis:
    """What `MAML.check` finds.

    Args:
        parameters: one check of each.
        changed_buffers: those that a forward pass changes.
        random: whether two forward passes on the same input differ.
        engine: what gave the meta-gradient.
    """

    parameters: tuple[ParameterCheck, ...]
    changed_buffers: tuple[str, ...]
    random: bool
    engine: str

    @property
    def ok(self) -> bool:
        """Whether no parameter's gradient is lost or wrong."""
        return all(check.verdict not in ("lost", "wrong") for check in self.parameters)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.parameters)
        lines = [f"meta-gradient of engine {self.engine!r} against finite differences, in float64, along one direction"]
        for check in self.parameters:
            slopes = f"{check.given:+.6e}  {check.slope:+.6e}"
            lines.append(f"  {check.name:<{width}}  {slopes}  {VERDICTS[check.verdict]}")
        changed = ", ".join(self.changed_buffers) or "none"
        lines.append(f"buffers that a forward pass changes: {changed}")
        lines.append(f"the forward pass draws random numbers: {'yes' if self.random else 'no'}")
        return "\n".join(lines)


def diagnose(maml: MAML, batch: Any, steps: int) -> Diagnosis:
    """See `MAML.check`; nothing of `maml` is changed."""
    given = TaskBatch.of(batch)
    given.check()
    task = TaskBatch(_first_task(given.support), _first_task(given.query))
    changed, is_random = _look_at_forward(maml.model, task.support.x[0])
    twin = _in_float64(maml, is_random)
    loss = _LossAfterAdaptation(twin, task.to(torch.float64), steps)
    gradient = loss.gradient()
    checks = [_check(slot, gradient, loss) for slot in twin.plan.slots]
    scale = max(max(abs(check.slope), abs(check.given)) for check in checks)
    return Diagnosis(tuple(_judged(check, scale) for check in checks), changed, is_random, twin.engine.name)


class _LossAfterAdaptation:
    """The query loss of one task as a function of the initialisation [P], and its meta-gradient by the MAML."""

    def __init__(self, maml: MAML, task: TaskBatch, steps: int) -> None:
        self.maml, self.task, self.steps = maml, task, steps
        self.plan, self._truth = maml.plan, ReferenceEngine()
        self.start = self.plan.flatten(list(maml.model.parameters())).detach()

    def __call__(self, parameters: Tensor) -> float:
        lr = self.maml.inner_lr_in_force()
        with _seeded():
            fast, _ = self._truth.adapt(self.plan, parameters, lr, self.task.support, self.steps)
            outputs = self._truth.predict(self.plan, fast, self.task.query.x)
        return float(task_losses(self.plan, outputs, self.task.query).item())

    def gradient(self) -> Tensor:
        """[P]"""
        self.maml.zero_grad()
        with _seeded(), torch.enable_grad():
            self.maml.meta_loss(self.task, self.steps, group=None).backward()  # type: ignore[no-untyped-call]
        return self.plan.flatten(
            [torch.zeros_like(p) if p.grad is None else p.grad for p in self.maml.model.parameters()]
        )


def _check(slot: ParameterSlot, gradient: Tensor, loss: _LossAfterAdaptation) -> ParameterCheck:
    place = slice(slot.offset, slot.offset + slot.numel)
    generator = torch.Generator().manual_seed(0)
    found = ParameterCheck(slot.name, 0.0, 0.0, "frozen")
    for _ in range(_TRIES if slot.meta_learned else 0):
        signs = torch.randint(2, (slot.numel,), generator=generator).double() * 2 - 1
        direction = torch.zeros_like(loss.start)
        direction[place] = (signs / slot.numel**0.5).to(direction.device)
        slope = (loss(loss.start + _STEP * direction) - loss(loss.start - _STEP * direction)) / (2 * _STEP)
        given = float(gradient @ direction)
        found = ParameterCheck(slot.name, slope, given, "agrees" if _agree(slope, given) else "wrong")
        if found.verdict == "agrees":
            break
    return found


def _judged(check: ParameterCheck, scale: float) -> ParameterCheck:
    """The verdict, where slopes that are nothing beside the largest one count as zero."""
    if check.verdict == "frozen":
        return check
    depends = abs(check.slope) > _NOTHING * scale
    if check.given == 0:
        return replace(check, verdict="lost" if depends else "unused")
    return check if depends or abs(check.given) > _NOTHING * scale else replace(check, verdict="agrees")


def _agree(slope: float, given: float) -> bool:
    return abs(slope - given) <= _TOLERANCE * max(abs(slope), abs(given))


def _look_at_forward(model: nn.Module, x: Tensor) -> tuple[tuple[str, ...], bool]:
    """The buffers that model(x) changes, and whether it draws random numbers."""
    outputs, changed = [], set()
    for seed in range(2):
        twin = copy.deepcopy(model)
        before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
        with _seeded(seed), torch.no_grad():
            outputs.append(twin(x))
        changed |= {name for name, buffer in twin.named_buffers() if not torch.equal(buffer, before[name])}
    return tuple(sorted(changed)), not torch.equal(*outputs)


def _in_float64(maml: MAML, is_random: bool) -> MAML:
    """A copy that takes the exact meta-gradient; of a random model by the engine that draws what the truth draws."""
    twin = copy.deepcopy(maml)
    twin.rule = SecondOrder()
    if is_random:
        twin.engine = "reference"
    elif twin.asked_engine == "gpu":
        twin.engine = "auto"
    return twin.double()


def _first_task(samples: Samples) -> Samples:
    weights = None if samples.weights is None else samples.weights[:1]
    return Samples(samples.x[:1], samples.y[:1], weights)


@contextmanager
def _seeded(seed: int = 0) -> Iterator[None]:
    """The same random numbers each time, without a trace in the random state."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
