"""Training an initialisation of policies, with logs, checkpoints and exact resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fastmaml.rl.logs import RunLog, return_rows
from fastmaml.rl.meta import MetaPolicy
from fastmaml.rl.outer import Outer, Update
from fastmaml.rl.run_state import RunState
from fastmaml.runs.interrupts import Interrupts
from fastmaml.runs.kept_loop import KeptLoop
from fastmaml.runs.logs import check_tensorboard
from fastmaml.runs.packing import pack
from fastmaml.runs.progress import Progress
from fastmaml.runs.run_folder import RunFolder
from fastmaml.runs.run_state import plain
from fastmaml.training.arguments import check_counts

_SMOOTHING = 0.2  # the return shown is a mean over about 5 meta-iterations


@dataclass(frozen=True)
class Validation:
    """Adaptation to held-out tasks during training, always to the same ones, from the same random numbers.

    The policy with the highest return after the last step is kept.

    Args:
        every: meta-iterations between two of them; the last one is followed by one as well.
        tasks, episodes: how many. steps: of adaptation. lrs: their sizes, the last for all further ones.
        seed: of the tasks and episodes.
    """

    every: int = 10
    tasks: int = 20
    episodes: int = 20
    steps: int = 1
    lrs: tuple[float, ...] = (0.1, 0.05)
    seed: int = 0


@dataclass(frozen=True)
class TrainResult:
    """What `Trainer.run` did.

    Attributes:
        iteration: meta-iterations done since the start of the run, those before a resume included.
        signal: the signal that ended it, or None.
        returns: mean returns after 0 … K inner steps in the last meta-iteration of this call; empty where it did none.
        seconds, env_steps: spent in all.
        best_iteration, best_value: of the best validation; None without validation.
        log_dir: where everything lies, or None.
    """

    iteration: int
    signal: int | None
    returns: tuple[float, ...]
    seconds: float
    env_steps: int
    best_iteration: int | None
    best_value: float | None
    log_dir: Path | None

    @property
    def interrupted(self) -> bool:
        """Whether SIGINT or SIGTERM ended it."""
        return self.signal is not None


class Trainer:
    """Trains the parameters of a MetaPolicy by an outer update of a fresh meta-batch of tasks at a time.

        meta = MetaPolicy(GaussianPolicy(2, 2), Navigation2D(), Settings(inner_lr=0.1))
        result = Trainer(meta, TRPO(), meta_batch=20, iterations=500, log_dir="runs/nav2d").run()

    `log_dir` gets train.csv, validation.csv, checkpoints/, best.safetensors and tensorboard/. A run that is killed at
    any moment and started again with the same arguments ends with bit for bit the parameters of one that was not.
    Ctrl-C (SIGINT) or SIGTERM finishes the meta-iteration, saves and returns; a second one aborts at once.

    Args:
        meta: policy, environment and how the policy adapts.
        outer: TRPO(), PolicyGradient() or PPO().
        meta_batch: tasks in a meta-iteration.
        iterations: of the whole run; more than before continues a finished one.
        seed: of the tasks, the first states and the actions.
        log_dir: where logs and checkpoints go; None keeps nothing.
        resume: continue the run in log_dir, if there is one; False refuses to start in such a folder.
        checkpoint_every: meta-iterations between checkpoints. keep: how many of the last are kept.
        tensorboard: also write TensorBoard events.
        validation: when and how to evaluate; the best policy is kept as best.safetensors.
        progress: draw a progress bar on stderr.
        config: plain data to keep in the checkpoints, e.g. the options of a recipe.
    Raises:
        TypeError, ValueError: for an argument that is not allowed, naming it.
        ImportError: for tensorboard=True where it is not installed.
    """

    def __init__(
        self,
        meta: MetaPolicy,
        outer: Outer,
        *,
        meta_batch: int,
        iterations: int,
        seed: int = 0,
        log_dir: Path | str | None = None,
        resume: bool = True,
        checkpoint_every: int = 10,
        keep: int = 2,
        tensorboard: bool = False,
        validation: Validation | None = None,
        progress: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        check_counts(iterations=iterations, meta_batch=meta_batch, checkpoint_every=checkpoint_every, keep=keep)
        check_counts(validation_every=1 if validation is None else validation.every)
        if not isinstance(outer, Outer):
            raise TypeError(f"outer: given {type(outer).__name__}; allowed are TRPO(), PolicyGradient() and PPO()")
        if tensorboard:
            check_tensorboard()
        pack({"config": dict(config or {})})  # raises TypeError now rather than at the first checkpoint
        self.meta, self.outer, self.validation = meta, outer, validation
        self.meta_batch, self.iterations, self.checkpoint_every = meta_batch, iterations, checkpoint_every
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.resume, self.keep, self.tensorboard, self.progress = resume, keep, tensorboard, progress
        generator = np.random.default_rng(seed)
        self._state = RunState(meta.policy, generator, self._settings(seed), {**(config or {})})

    def run(self) -> TrainResult:
        """Trains until the last meta-iteration or a signal.

        Raises:
            ValueError: where an observation, a reward or an output of the policy is not finite, naming it.
            FloatingPointError: where the surrogate's gradient or curvature is not.
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
            loop.returns,
            counters.seconds,
            counters.env_steps,
            counters.best_iteration,
            counters.best_value,
            self.log_dir,
        )

    def _open(self, stack: ExitStack) -> _Loop:
        folder = None
        if self.log_dir is not None:
            folder = stack.enter_context(RunFolder(self.log_dir, self.keep))
            folder.restore(self._state, self.resume)
        start = self._state.counters.iteration
        log = RunLog(self.log_dir, start, self.validation is not None, self.tensorboard)
        stack.callback(log.close)
        bar = Progress(self.iterations, start, self.meta_batch, self.progress, label="return", smoothing=_SMOOTHING)
        stack.callback(bar.close)
        return _Loop(self, self._state, folder, log, bar, stack.enter_context(Interrupts()))

    def _settings(self, seed: int) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run, as plain data."""
        settings = {"meta_batch": self.meta_batch, "seed": seed, "environment": type(self.meta.environment).__name__}
        settings |= {"horizon": self.meta.environment.horizon, "outer": repr(self.outer)}
        return dict(plain(settings | dataclasses.asdict(self.meta.settings)))


class _Loop(KeptLoop):
    """Meta-iterations until the last one or a signal; a log is always written before its checkpoint."""

    def __init__(
        self,
        trainer: Trainer,
        state: RunState,
        folder: RunFolder | None,
        log: RunLog,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        super().__init__(state, folder, log)
        self.trainer, self.state, self.progress, self.interrupts = trainer, state, progress, interrupts
        self.returns: tuple[float, ...] = ()

    def run(self) -> None:
        counters = self.state.counters
        self._begin()
        while counters.iteration < self.trainer.iterations and self.interrupts.signal is None:
            self._iterate()
            self._record(counters.iteration)
        self.progress.draw(counters.iteration)
        self._end()

    def _iterate(self) -> None:
        meta, generator, counters = self.trainer.meta, self.state.generator, self.state.counters
        tasks = meta.environment.sample_tasks(self.trainer.meta_batch, generator)
        problem, runs = meta.problem(tasks, generator)
        update = self.trainer.outer.update(problem)
        meta.put(update.theta)
        counters.iteration += 1
        counters.env_steps += sum(run.steps for run in runs)
        self.returns = tuple(run.returns.mean().item() for run in runs)
        self.log.train(self._row(update))
        self.progress.show(counters.iteration, self.returns[-1], None)

    def _row(self, update: Update) -> dict[str, Any]:
        counters = self.state.counters
        return {
            "iteration": counters.iteration,
            "return_before": self.returns[0],
            "return_after": self.returns[-1],
            "surrogate_before": update.before,
            "surrogate_after": update.after,
            "kl": update.kl,
            "accepted": int(update.accepted),
            "env_steps": counters.env_steps,
            "seconds": round(self.seconds, 3),
        }

    def _record(self, iteration: int) -> None:
        validation = self.trainer.validation
        if validation is not None and self._due(iteration, validation.every):
            self._validate(validation)
        if self.folder is not None and self._due(iteration, self.trainer.checkpoint_every):
            self._save()

    def _due(self, iteration: int, every: int) -> bool:
        return iteration % every == 0 or iteration == self.trainer.iterations

    def _validate(self, validation: Validation) -> None:
        counters, returns = self.state.counters, validate(self.trainer.meta, validation)
        self.log.validation(counters.iteration, return_rows(returns))
        value = returns[-1].mean().item()
        self.progress.note(f"validation {value:.4g}")
        if counters.best_value is None or value > counters.best_value:
            counters.best_iteration, counters.best_value = counters.iteration, value
            self._save_best()


def validate(meta: MetaPolicy, validation: Validation) -> Tensor:
    """Returns [steps + 1, T] of a policy that adapts to the validation's tasks."""
    generator = np.random.default_rng(validation.seed)
    tasks = meta.environment.sample_tasks(validation.tasks, generator)
    lrs: Sequence[float] = validation.lrs
    return meta.evaluate(tasks, validation.steps, validation.episodes, lrs, generator).returns
