"""Small training runs for tests; as a script, one that can be killed: python -m tests.small_runs LOG_DIR [...]."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.maml import MAML
from fastmaml.tasks import Sinusoid
from fastmaml.training.trainer import Trainer, Validation

ROOT = Path(__file__).parents[1]


class Blobs:
    """Classification: each task has a centre [2] of its own for each of 3 classes. Has no stream()."""

    def __init__(self, shots: int = 2, noise: float = 0.3) -> None:
        self.shots, self.noise = shots, noise

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        centres = 2 * torch.randn(num_tasks, 3, 1, 2, generator=generator)
        noise = torch.randn(num_tasks, 3, 2 * self.shots, 2, generator=generator)
        support, query = (centres + self.noise * noise).split(self.shots, dim=2)
        y = torch.arange(3).repeat_interleave(self.shots).repeat(num_tasks, 1)
        return TaskBatch(Samples(support.flatten(1, 2), y), Samples(query.flatten(1, 2), y))


class Hooked:
    """A source without stream() that calls `hook(call, batch)` on every sample; calls are counted from 1."""

    def __init__(self, source, hook) -> None:
        self.source, self.hook, self.calls = source, hook, 0

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        batch = self.source.sample(num_tasks, generator)
        self.calls += 1
        return self.hook(self.calls, batch) or batch


def network(inputs: int = 1, outputs: int = 1, seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs)]
    return nn.Sequential(*layers[:2], nn.Dropout(dropout), layers[2]) if dropout else nn.Sequential(*layers)


def regression(seed: int = 0, **options) -> MAML:
    return MAML(network(seed=seed), **{"lr": 0.02, "engine": "auto", **options})


def classifier(seed: int = 0, **options) -> MAML:
    return MAML(network(2, 3, seed), **{"lr": 0.1, "loss": "cross_entropy", "engine": "auto", **options})


def adam(maml: MAML, **options) -> torch.optim.Adam:
    return torch.optim.Adam(maml.parameters(), **{"lr": 0.01, "fused": True, **options})


def trainer(maml: MAML, source=None, optimizer=None, **options) -> Trainer:
    source = Sinusoid(3, 2) if source is None else source
    defaults = {"meta_batch": 3, "iterations": 12, "progress": False}
    return Trainer(maml, source, optimizer or adam(maml), **{**defaults, **options})


def parameters(maml: MAML) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in maml.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def rows(path: Path) -> list[str]:
    """The rows of a log without the last column, the seconds, which no two runs have in common."""
    return [line.rpartition(",")[0] if path.name == "train.csv" else line for line in path.read_text().splitlines()]


def killable(log_dir: Path, iterations: int = 120) -> Trainer:
    """The run of the script; its validations and checkpoints are dense, so that a kill often lands in one."""
    maml = regression()
    scheduler_of = torch.optim.lr_scheduler.CosineAnnealingLR
    optimizer = adam(maml)
    return trainer(
        maml,
        optimizer=optimizer,
        scheduler=scheduler_of(optimizer, iterations),
        iterations=iterations,
        log_dir=log_dir,
        checkpoint_every=7,
        log_every=5,
        validation=Validation(Sinusoid(3, 2), every=30, tasks=4, meta_batch=4),
    )


def die_in(function: str, call: int) -> None:
    """SIGKILLs this process when os.`function` is called for the `call`-th time: before it is carried out."""
    real, calls = getattr(os, function), [0]

    def dying(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, function, dying)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("log_dir", type=Path)
    parser.add_argument("--iterations", type=int, default=120)
    parser.add_argument("--die", nargs=2, metavar=("FUNCTION", "CALL"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = killable(arguments.log_dir, arguments.iterations)
    if arguments.die:
        die_in(arguments.die[0], int(arguments.die[1]))
    print("ready", flush=True)
    result = run.run()
    print(f"iteration {result.iteration} signal {result.signal}", flush=True)
    sys.exit(128 + result.signal if result.signal else 0)


if __name__ == "__main__":
    main()
