"""All that the next iterations depend on, as it goes into a checkpoint and comes back from one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastmaml.batch import TaskBatch
from fastmaml.runs import optimizer_state, scheduler_state
from fastmaml.runs.checkpoint import CheckpointError, check_tensors, describe
from fastmaml.runs.random_state import check_state
from fastmaml.runs.saved import Saved
from fastmaml.runs.saved import counters as saved_counters

T = TypeVar("T")


class Stream(Iterator[TaskBatch], Protocol):
    """An endless iterator of meta-batches whose place can be saved, as `fastmaml.tasks.TaskStream`."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class Counters:
    """Where a run is, and the sums of the log's next row."""

    iteration: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    accuracy_sum: float | None = None
    count: int = 0
    loss: float | None = None
    accuracy: float | None = None
    best_iteration: int | None = None
    best_value: float | None = None

    def add(self, loss: float, accuracy: float | None) -> None:
        """Counts an iteration."""
        self.iteration += 1
        self.count += 1
        self.loss_sum += loss
        if accuracy is not None:
            self.accuracy_sum = (self.accuracy_sum or 0.0) + accuracy

    def close_row(self) -> None:
        """Sets `loss` and `accuracy` to the means since the last row, and starts the next."""
        if self.count:
            self.loss = self.loss_sum / self.count
            self.accuracy = None if self.accuracy_sum is None else self.accuracy_sum / self.count
        self.loss_sum, self.accuracy_sum, self.count = 0.0, None, 0


@dataclass
class RunState:
    """The parts of a run that change; `settings` and `config` do not, and say what run it is.

    Args:
        model: whose state_dict is saved; a MAML with its learned inner lr.
        settings: what must be the same for a resumed run to be the same run, as `plain` data.
        config: whatever the user wants to find again in the checkpoint; see `fastmaml.runs.packing.pack`.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None
    stream: Stream
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    counters: Counters = dataclasses.field(default_factory=Counters)

    def capture(self) -> dict[str, Any]:
        """The state of a checkpoint; `fastmaml.runs.checkpoint.save` writes it."""
        return {
            "iteration": self.counters.iteration,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "stream": self.stream.state_dict(),
            "random": _random_state(self._device()),
            "counters": dataclasses.asdict(self.counters),
            "settings": self.settings,
            "config": self.config,
        }

    def restore(self, path: Path, state: Mapping[str, Any]) -> None:
        """Puts everything back as it was when `state` was captured; `path` is what errors name.

        All that can be checked is checked before anything changes.

        Raises:
            CheckpointError: where it was captured in a run of other settings or from another model, or a field is
                absent or of another kind than what will read it.
        """
        if "settings" not in state:
            raise CheckpointError(f"{path}: holds no training run; give a checkpoint that a Trainer wrote")
        saved = Saved(path, state)
        check_tensors(path, saved.entry("model").mapping(), self.model.state_dict())
        check_settings(path, saved.entry("settings").mapping(), self.settings)
        counters = restored_counters(saved, Counters)
        random = _checked_random(saved.entry("random"))
        with fitting(path, "optimizer"):
            optimizer_state.restore(saved.entry("optimizer"), self.optimizer)
        with fitting(path, "scheduler"):
            scheduler_state.restore(saved.optional("scheduler"), self.scheduler)
        with fitting(path, "task source"):
            self.stream.load_state_dict(saved.optional("stream").value)
        self.model.load_state_dict(state["model"])
        with fitting(path, "random state"):
            _set_random_state(random)
        self.counters = counters

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def plain(value: Any) -> Any:
    """What JSON makes of plain data: tuples become lists, and objects that it does not know their str."""
    return json.loads(json.dumps(value, default=str))


def check_settings(path: Path, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming the differences, where a run was saved with other settings."""
    differences = [
        f"{name} was {_shown(saved[name])} and is {own[name]!r} now"
        for name in own
        if name in saved and not _same(saved[name], own[name])
    ]
    if differences:
        raise CheckpointError(
            f"{path}: was saved with other settings: {'; '.join(differences)}. "
            "Give those of the saved run to continue it, or another log_dir to start a new one"
        )


def restored_counters(saved: Saved, kind: type[T]) -> T:
    """The counters of a checkpoint, which says its iteration twice."""
    counters = saved_counters(saved.entry("counters"), kind)
    iteration = saved.entry("counters").entry("iteration").value
    if saved.entry("iteration").whole() != iteration:
        raise saved.entry("iteration").refusal(f"{iteration}, as 'counters/iteration' says")
    return counters


def _same(saved: Any, own: Any) -> bool:
    """Whether they are equal, where a damaged file may hold anything."""
    try:
        return bool(saved == own)
    except RuntimeError:  # tensors that are neither
        return False


def _shown(saved: Any) -> str:
    return describe(saved) if isinstance(saved, Tensor) else repr(saved)


@contextmanager
def fitting(path: Path, part: str) -> Iterator[None]:
    """Turns what loading a part raises into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: does not fit the {part} ({type(error).__name__}: {error}); "
            "build it as it was saved, or give another log_dir"
        ) from error


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the global generators, which dropout in the model draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[str(device)] = torch.cuda.get_rng_state(device)
    return states


def _checked_random(saved: Saved) -> Mapping[str, Tensor]:
    saved.entry("cpu").tensor(torch.get_rng_state(), "the generator of the CPU")
    for name in saved.mapping():
        entry = saved.entry(name)
        try:
            check_state(entry.value)
        except ValueError as error:
            raise entry.refusal(str(error)) from error
    return saved.mapping()


def _set_random_state(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for device, state in states.items():
        if device != "cpu" and torch.cuda.is_available():
            torch.cuda.set_rng_state(state, device)
