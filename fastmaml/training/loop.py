"""The outer loop itself: iterate, and record what is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from fastmaml.batch import TaskBatch
from fastmaml.evaluation import Evaluation, evaluate, placed
from fastmaml.runs.interrupts import Interrupts
from fastmaml.runs.kept_loop import KeptLoop
from fastmaml.runs.logs import RunLog
from fastmaml.runs.progress import Progress
from fastmaml.runs.run_folder import RunFolder
from fastmaml.runs.run_state import RunState
from fastmaml.tasks import TaskSource
from fastmaml.tasks.ahead import Ahead
from fastmaml.training import nonfinite
from fastmaml.training.captured import CapturedStep
from fastmaml.training.nonfinite import NonFiniteLoss, NonFiniteStep
from fastmaml.training.step import MetaStep


@dataclass(frozen=True)
class Validation:
    """Evaluation during training, always on the same tasks.

    The network with the highest accuracy (in regression: the lowest loss) after the last inner step is kept.

    Args:
        source: of the validation tasks.
        every: iterations between two evaluations; the last iteration is evaluated as well.
        tasks, steps, seed: see `fastmaml.evaluation.evaluate`.
        meta_batch: tasks adapted at a time; that of the trainer if None.
    """

    source: TaskSource
    every: int = 1000
    tasks: int = 600
    steps: int | None = None
    meta_batch: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Schedule:
    """When a run ends and what is due when, in iterations. What is due at all is also due at the end."""

    iterations: int
    meta_batch: int
    log_every: int
    checkpoint_every: int
    validation: Validation | None

    def due(self, iteration: int, every: int) -> bool:
        return iteration % every == 0 or iteration == self.iterations


class Loop(KeptLoop):
    """Runs iterations until the last one or a signal, from wherever `state` is.

    What an iteration puts into the log is written before its checkpoint, and a checkpoint never ends an iteration
    half recorded: so a log, cut off after its checkpoint, continues as if nothing had happened.
    """

    def __init__(
        self,
        schedule: Schedule,
        state: RunState,
        step: MetaStep | CapturedStep,
        folder: RunFolder | None,
        log: RunLog,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        super().__init__(state, folder, log)
        self.schedule, self.state, self.step = schedule, state, step
        self.progress, self.interrupts = progress, interrupts
        self.evaluation: Evaluation | None = None

    def run(self) -> None:
        """Raises NonFiniteLoss where a loss or the meta-gradient is not finite."""
        counters, stream, schedule = self.state.counters, self.state.stream, self.schedule
        self._begin()
        parameter = next(self.state.model.parameters())
        self.step.clear()
        while counters.iteration < schedule.iterations and self.interrupts.signal is None:
            batch = placed(next(stream), parameter)
            try:
                loss, accuracy = self.step(batch, self._draw_ahead)
            except NonFiniteStep as error:
                raise self._failure(error, batch) from None
            counters.add(loss, accuracy)
            self.progress.show(counters.iteration, loss, accuracy)
            self._record(counters.iteration)
        self.step.clear()
        self.progress.draw(counters.iteration)
        self._end()

    def _draw_ahead(self) -> None:
        """Draws the next meta-batch, if there is to be one, where the stream can."""
        stream = self.state.stream
        if isinstance(stream, Ahead) and self.state.counters.iteration + 1 < self.schedule.iterations:
            stream.draw()

    def _record(self, iteration: int) -> None:
        schedule = self.schedule
        if schedule.due(iteration, schedule.log_every):
            self._log()
        if schedule.validation is not None and schedule.due(iteration, schedule.validation.every):
            self._validate(schedule.validation)
        if self.folder is not None and schedule.due(iteration, schedule.checkpoint_every):
            self._save()

    def _log(self) -> None:
        counters = self.state.counters
        counters.close_row()
        row: dict[str, Any] = {
            "iteration": counters.iteration,
            "loss": counters.loss,
            "accuracy": counters.accuracy,
            "lr": float(self.state.optimizer.param_groups[0]["lr"]),
            "seconds": round(self.seconds, 3),
        }
        self.log.train(row)

    def _validate(self, validation: Validation) -> None:
        counters = self.state.counters
        evaluation = self.evaluation = evaluate(
            self.step.maml,
            validation.source,
            tasks=validation.tasks,
            steps=validation.steps,
            meta_batch=validation.meta_batch or self.schedule.meta_batch,
            seed=validation.seed,
        )
        self.log.validation(counters.iteration, evaluation.rows())
        value, better = _judge(evaluation, counters.best_value)
        self.progress.note(_note(evaluation))
        if isinstance(self.state.scheduler, ReduceLROnPlateau):
            self.state.scheduler.step(value)
        if better:
            counters.best_iteration, counters.best_value = counters.iteration, value
            self._save_best()

    def _failure(self, step: NonFiniteStep, batch: TaskBatch) -> NonFiniteLoss:
        iteration = self.state.counters.iteration + 1
        path = None
        if self.folder is not None:
            path = self.folder.nonfinite(iteration)
            nonfinite.save(path, iteration, step, self.state.model, batch)
        return NonFiniteLoss(iteration, step.tasks, step.parameters, path)


def _judge(evaluation: Evaluation, best: float | None) -> tuple[float, bool]:
    """The value that validations are compared by, and whether it beats the best one."""
    if evaluation.accuracy is not None:
        value = evaluation.accuracy[-1].item()
        return value, best is None or value > best
    value = evaluation.loss[-1].item()
    return value, value == value and (best is None or value < best)


def _note(evaluation: Evaluation) -> str:
    if evaluation.accuracy is not None:
        return f"validation {evaluation.accuracy[-1].item():.1%}"
    return f"validation {evaluation.loss[-1].item():.4g}"
