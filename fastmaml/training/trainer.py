"""Training from a task source, with logs, checkpoints and exact resume."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fastmaml.evaluation import Evaluation
from fastmaml.maml import MAML
from fastmaml.runs.interrupts import Interrupts
from fastmaml.runs.logs import RunLog, check_tensorboard
from fastmaml.runs.packing import pack
from fastmaml.runs.progress import Progress
from fastmaml.runs.run_folder import RunFolder
from fastmaml.runs.run_state import RunState, plain
from fastmaml.tasks import TaskSource
from fastmaml.tasks.ahead import Ahead
from fastmaml.training.arguments import (
    check_bounds,
    check_counts,
    check_optimizer,
    check_scheduler,
    open_stream,
    settings_of,
)
from fastmaml.training.captured import CapturedStep, capture_obstacle
from fastmaml.training.loop import Loop, Schedule, Validation
from fastmaml.training.nonfinite import NonFiniteLoss
from fastmaml.training.step import MetaStep

__all__ = ["NonFiniteLoss", "TrainResult", "Trainer", "Validation"]


@dataclass(frozen=True)
class TrainResult:
    """What `Trainer.run` did.

    Attributes:
        iteration: iterations done since the start of the run, those before a resume included.
        signal: the signal that ended it, or None.
        loss, accuracy: means over the iterations of the last row of the log; None before the first row, and
            accuracy in regression.
        seconds: time spent in all, that before a resume included.
        best_iteration, best_value: of the best validation; None without validation.
        evaluation: the last validation of this call.
        log_dir: where everything lies, or None.
    """

    iteration: int
    signal: int | None
    loss: float | None
    accuracy: float | None
    seconds: float
    best_iteration: int | None
    best_value: float | None
    evaluation: Evaluation | None
    log_dir: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether SIGINT or SIGTERM ended it."""
        return self.signal is not None


class Trainer:
    """Trains a MAML on tasks from a source.

        optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3, fused=True)
        trainer = Trainer(maml, Sinusoid(), optimizer, meta_batch=25, iterations=70_000, log_dir="runs/sinusoid")
        result = trainer.run()

    `log_dir` gets train.csv, validation.csv, checkpoints/, best.safetensors and tensorboard/. A run that is killed
    at any moment and started again with the same arguments ends with bit for bit the parameters of one that was
    not. Ctrl-C (SIGINT) or SIGTERM finishes the iteration, saves and returns; a second one aborts at once.

    Args:
        maml: what to train, in its present mode and on its device; batches are moved to where it is.
        source: draws the tasks; all its randomness comes from a generator seeded with `seed`, on the CPU or, if the
            source has an attribute `device` (as `Episodes.to("cuda")`), there. If it has a method
            stream(num_tasks, generator), that gives the meta-batches: an iterator with state_dict() and
            load_state_dict(), as `fastmaml.tasks.TaskStream`.
        optimizer: any torch optimizer of maml.parameters(). On a CPU, Adam is fastest with fused=True.
        meta_batch: tasks in an iteration.
        iterations: of the whole run; more than before continues a finished one.
        seed: of the tasks.
        log_dir: where logs and checkpoints go; None keeps nothing.
        resume: continue the run in log_dir, if there is one; False refuses to start in such a folder.
        scheduler: of the outer learning rate, stepped every iteration; ReduceLROnPlateau after every validation, on
            its accuracy (mode="max") or, in regression, its loss.
        clip_value: bound on the magnitude of each element of the meta-gradient (the paper: 10 on MiniImagenet).
        clip_norm: bound on the 2-norm of the meta-gradient.
        checkpoint_every: iterations between checkpoints.
        keep: how many of the last checkpoints are kept.
        log_every: iterations that a row of train.csv averages over.
        tensorboard: also write TensorBoard events.
        validation: when and on what to evaluate; the best network is kept as best.safetensors.
        progress: draw a progress bar on stderr.
        config: plain data to keep in the checkpoints, e.g. the options of a recipe.
        capture: record the meta-step, the optimizer's included, as a CUDA graph and replay it. None does so where it
            can be done, and warns with the reason where a model on a CUDA device cannot have it; True raises
            ValueError with that reason; False leaves it. `explain()` says what was decided. The next meta-batch is
            then drawn while the device works.

    Raises:
        TypeError, ValueError: for an argument that is not allowed, naming it.
        ImportError: for tensorboard=True where it is not installed.
    """

    def __init__(
        self,
        maml: MAML,
        source: TaskSource,
        optimizer: Optimizer,
        *,
        meta_batch: int,
        iterations: int,
        seed: int = 0,
        log_dir: Path | str | None = None,
        resume: bool = True,
        scheduler: LRScheduler | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        checkpoint_every: int = 1000,
        keep: int = 2,
        log_every: int = 100,
        tensorboard: bool = False,
        validation: Validation | None = None,
        progress: bool = True,
        config: Mapping[str, Any] | None = None,
        capture: bool | None = None,
    ) -> None:
        check_counts(iterations=iterations, meta_batch=meta_batch, log_every=log_every)
        check_counts(checkpoint_every=checkpoint_every, keep=keep)
        check_counts(validation_every=1 if validation is None else validation.every)
        check_bounds(clip_value=clip_value, clip_norm=clip_norm)
        check_optimizer(optimizer, maml)
        check_scheduler(scheduler, optimizer, validation)
        if tensorboard:
            check_tensorboard()
        pack({"config": dict(config or {})})  # raises TypeError now rather than at the first checkpoint
        self.schedule = Schedule(iterations, meta_batch, log_every, checkpoint_every, validation)
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.resume, self.keep, self.tensorboard, self.progress = resume, keep, tensorboard, progress
        step = MetaStep(maml, optimizer, scheduler, clip_value, clip_norm)
        self._uncaptured = _uncaptured(capture, maml, optimizer, scheduler)
        self._step = step if self._uncaptured is not None else CapturedStep(step)
        settings = {"meta_batch": meta_batch, "seed": seed, "clip_value": clip_value, "clip_norm": clip_norm}
        settings |= settings_of(maml, optimizer, scheduler)
        stream = open_stream(source, meta_batch, seed)
        if self._uncaptured is None:
            stream = Ahead(stream)
        self._state = RunState(maml, optimizer, scheduler, stream, plain(settings), {**(config or {})})

    def explain(self) -> str:
        """Which engine runs the model, and whether meta-steps are captured as a CUDA graph; each with the reason."""
        captured = self._uncaptured is None
        line = "meta-steps are captured as a CUDA graph" if captured else f"not captured: {self._uncaptured}"
        return f"{self._step.maml.explain()}\n{line}"

    def run(self) -> TrainResult:
        """Trains until the last iteration or a signal.

        Raises:
            NonFiniteLoss: where a loss or the meta-gradient is not finite.
            CheckpointError: where the checkpoint in log_dir cannot be continued, or one cannot be written.
            FileExistsError: where log_dir holds a run and `resume` is False.
            RuntimeError: where another process writes to log_dir.
        """
        with ExitStack() as stack:
            loop = self._open(stack)
            loop.run()
        counters = self._state.counters
        return TrainResult(
            counters.iteration,
            loop.interrupts.signal,
            counters.loss,
            counters.accuracy,
            counters.seconds,
            counters.best_iteration,
            counters.best_value,
            loop.evaluation,
            self.log_dir,
        )

    def _open(self, stack: ExitStack) -> Loop:
        folder = None
        if self.log_dir is not None:
            folder = stack.enter_context(RunFolder(self.log_dir, self.keep))
            folder.restore(self._state, self.resume)
        schedule, start = self.schedule, self._state.counters.iteration
        log = RunLog(self.log_dir, start, schedule.validation is not None, self.tensorboard)
        stack.callback(log.close)
        progress = Progress(schedule.iterations, start, schedule.meta_batch, self.progress)
        stack.callback(progress.close)
        interrupts = stack.enter_context(Interrupts())
        return Loop(schedule, self._state, self._step, folder, log, progress, interrupts)


def _uncaptured(capture: bool | None, maml: MAML, optimizer: Optimizer, scheduler: LRScheduler | None) -> str | None:
    """Why meta-steps are not captured; None where they are."""
    if capture not in (None, True, False):
        raise TypeError(f"capture: given {capture!r}; allowed are True, False, and None for wherever it can be done")
    if capture is False:
        return "capture=False"
    obstacle = capture_obstacle(maml, optimizer, scheduler)
    if obstacle is not None and capture:
        raise ValueError(f"capture: given True, but {obstacle}")
    if obstacle is not None and next(maml.model.parameters()).device.type == "cuda":
        warnings.warn(f"meta-steps are launched one by one, not captured as a CUDA graph: {obstacle}", stacklevel=3)
    return obstacle
