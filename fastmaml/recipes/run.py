"""Runs of recipes: a folder each, whose checkpoints say what they hold, and which is resumed where it was left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from fastmaml.evaluation import Evaluation, evaluate
from fastmaml.maml import MAML
from fastmaml.recipes.base import Recipe
from fastmaml.recipes.decay import linear_decay
from fastmaml.recipes.standing import CHECKPOINTS
from fastmaml.runs import checkpoint
from fastmaml.tasks import TaskSource
from fastmaml.training.trainer import Trainer, TrainResult, Validation

EVALUATION_BATCH = 100  # tasks adapted at a time

_FREE = {
    "iterations", "checkpoint_every", "engine", "data", "test_tasks", "test_steps", "test_shots", "test_queries",
    "validate_every", "validation_tasks", "tuning_tasks", "test_lr_factor", "test_episodes", "test_lr",
}  # fmt: skip
"""Options that may change when a run is resumed: what an iteration does does not depend on them."""


class Described(Protocol):
    """A recipe of any kind: a dataclass of options with a name."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


def train(recipe: Recipe, folder: Path, **options: Any) -> tuple[MAML, TrainResult]:
    """Train a recipe in `folder`, or go on where a former run of it stopped there.

    Args:
        folder: for checkpoints and logs; made if absent.
        options: further arguments of Trainer, such as progress.
    Raises:
        ValueError: the folder holds a run of another recipe, or of this one with other options.
    """
    check_folder(folder, recipe)
    source = recipe.validation_source()
    every, tasks = recipe.validate_every, recipe.validation_tasks
    source = None if source is None else drawn_on(torch.device(recipe.device), source)
    validation = Validation(source, every, tasks, recipe.test_steps, EVALUATION_BATCH) if source else None
    return fit(recipe, recipe.maml(), recipe.train_source(), folder, validation=validation, **options)


def fit(recipe: Recipe, maml: MAML, source: TaskSource, folder: Path, **options: Any) -> tuple[MAML, TrainResult]:
    """Train any MAML on any source with the outer loop of a recipe."""
    learned = [parameter for parameter in maml.parameters() if parameter.requires_grad]
    optimizer = _adam(recipe, learned)
    trainer = Trainer(
        maml,
        drawn_on(learned[0].device, source),
        optimizer,
        meta_batch=recipe.meta_batch,
        iterations=recipe.iterations,
        seed=recipe.seed,
        log_dir=folder,
        checkpoint_every=recipe.checkpoint_every,
        config=description(recipe),
        clip_value=recipe.clip_value,
        scheduler=linear_decay(optimizer, recipe.iterations, recipe.meta_lr_decay),
        **options,
    )
    return maml, trainer.run()


def _adam(recipe: Recipe, learned: list[nn.Parameter]) -> torch.optim.Adam:
    device = learned[0].device
    on_gpu = device.type == "cuda"
    # a captured step reads a step size that changes from the device's memory
    lr = torch.tensor(recipe.meta_lr, device=device) if on_gpu and recipe.meta_lr_decay else recipe.meta_lr
    return torch.optim.Adam(learned, lr=lr, fused=True, capturable=on_gpu)


def drawn_on(device: torch.device, source: TaskSource) -> TaskSource:
    """The source with what it draws from on the device, where it can be moved; a batch then needs no copy."""
    moved: TaskSource = source.to(device) if hasattr(source, "to") else source
    return moved


def judge(recipe: Recipe, maml: MAML) -> Evaluation:
    """Loss and accuracy after 0 … test_steps inner steps on the recipe's test tasks."""
    return evaluate(
        recipe.at_test(maml),
        drawn_on(torch.device(recipe.device), recipe.test_source()),
        tasks=recipe.test_tasks,
        steps=recipe.test_steps,
        meta_batch=EVALUATION_BATCH,
        seed=recipe.test_seed,
    )


def description(recipe: Described) -> dict[str, Any]:
    """What a checkpoint says of its recipe: the name as "recipe", and every option."""
    return {"recipe": recipe.name, **asdict(recipe)}


def check_folder(folder: Path, recipe: Described) -> None:
    """Raises ValueError, naming the option, where the folder holds a run of something else.

    Where the meta step size falls towards the last iteration, that has to be the same one too.
    """
    found = checkpoint.numbered(folder / CHECKPOINTS)
    saved: Mapping[str, Any] = checkpoint.load_config(found[-1]) if found else {}
    own = description(recipe)
    free = _FREE - {"iterations"} if saved.get("meta_lr_decay") else _FREE
    for key in saved.keys() - free:
        if own.get(key) != saved[key]:
            raise ValueError(
                f"{folder} holds a run with {key}={saved[key]!r}, and now {key}={own.get(key)!r} is asked for; "
                "give the same to go on with it, or another folder by --out"
            )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
