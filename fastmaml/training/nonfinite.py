"""What is left of an iteration whose loss or meta-gradient is not finite: an error, and a file to reproduce it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.runs import checkpoint
from fastmaml.runs.saved import Saved


class NonFiniteLoss(FloatingPointError):
    """The query loss, or its meta-gradient, is infinite or NaN; the parameters are those before the iteration.

    Attributes:
        iteration: the iteration that was stopped, counted from 1.
        tasks: indices of the tasks in the meta-batch whose query loss is not finite; empty where all are finite.
        parameters: names of the parameters whose meta-gradient is not finite; empty where a loss is to blame.
        path: the file with the parameters and the batch, for `load`; None without a log_dir.
    """

    def __init__(self, iteration: int, tasks: Sequence[int], parameters: Sequence[str], path: Path | None) -> None:
        self.iteration, self.tasks, self.parameters, self.path = iteration, tuple(tasks), tuple(parameters), path
        super().__init__(iteration, self.tasks, self.parameters, path)

    def __str__(self) -> str:
        if self.tasks:
            what = f"the query loss of tasks {list(self.tasks)} of the meta-batch is"
        elif self.parameters:
            what = f"all query losses are finite, but the meta-gradient of {list(self.parameters)} is"
        else:
            what = "the query loss of each task is finite, but their mean is"
        where = (
            f"They and the batch lie in {self.path}, see fastmaml.training.nonfinite.load"
            if self.path
            else "Give a log_dir to have the batch saved"
        )
        return (
            f"iteration {self.iteration}: {what} not finite. The parameters are those before this iteration. {where}. "
            "A lower inner lr or outer learning rate, or clip_norm, may help"
        )


class NonFiniteStep(ArithmeticError):
    """What a meta-step raises, which knows of no iteration or folder: task losses [T], names of parameters."""

    def __init__(self, losses: Tensor, parameters: Sequence[str] = ()) -> None:
        super().__init__(losses, parameters)
        self.losses, self.parameters = losses, parameters

    @property
    def tasks(self) -> list[int]:
        found: list[int] = (~self.losses.isfinite()).nonzero().flatten().tolist()
        return found


def save(path: Path, iteration: int, step: NonFiniteStep, module: nn.Module, batch: TaskBatch) -> None:
    """Writes the parameters, the batch and its losses to `path`."""
    state = {
        "iteration": iteration,
        "model": module.state_dict(),
        "support": _as_dict(batch.support),
        "query": _as_dict(batch.query),
        "losses": step.losses,
        "tasks": step.tasks,
    }
    checkpoint.save(path, state)


def load(path: Path | str, module: nn.Module | None = None) -> tuple[TaskBatch, dict[str, Any]]:
    """The batch of a file that `save` wrote, and all of its state; with `module`, its parameters are loaded into it.

        batch, state = load(error.path, maml)
        maml.meta_loss(batch)  # as it was

    Raises:
        CheckpointError: as `fastmaml.runs.checkpoint.load_model`, or where the file holds no batch.
    """
    state = checkpoint.load(path) if module is None else checkpoint.load_model(path, module)
    if "support" not in state:
        raise checkpoint.CheckpointError(f"{path}: holds no batch; give a file named nonfinite-*.safetensors")
    saved = Saved(path, state)
    return TaskBatch(_samples(saved.entry("support")), _samples(saved.entry("query"))), state


def _samples(saved: Saved) -> Samples:
    x, y, weights = saved.entry("x").value, saved.entry("y").value, saved.optional("weights").value
    if not all(isinstance(value, Tensor) for value in (x, y)) or not isinstance(weights, (Tensor, type(None))):
        raise saved.refusal("tensors 'x' and 'y', and 'weights' or None")
    return Samples(x, y, weights)


def _as_dict(samples: Samples) -> dict[str, Tensor | None]:
    return {"x": samples.x, "y": samples.y, "weights": samples.weights}
