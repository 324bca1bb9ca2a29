"""Learners that train by the clock, in turns, and what they reach."""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from bench.environment import machine
from bench.learners import LEARNERS, Race
from fastmaml.evaluation import evaluate
from fastmaml.recipes import RECIPES, Recipe
from fastmaml.recipes.reports import figures
from fastmaml.recipes.run import EVALUATION_BATCH

RECIPE_NAMES = ("omniglot", "cifar-fs", "mini-imagenet")


@dataclass(frozen=True)
class Mark:
    """What a learner has reached; accuracy and the half-width of its 95% confidence interval from 0 to 1."""

    learner: str
    minutes: float
    iterations: int
    accuracy: float
    ci95: float


def marks(minutes: float, count: int) -> list[float]:
    """Minutes at which learners are judged: the last one is `minutes`, and the first ones are close together."""
    return [minutes * (at / count) ** 2 for at in range(1, count + 1)]


def race(recipe: Recipe, names: Sequence[str], at: Sequence[float], record: Callable[[Mark], object]) -> None:
    """Trains each learner up to each of the marks in turn, and records what it has reached, at the start too."""
    racers = [Race(name, recipe) for name in names]
    for racer in racers:
        record(judge(racer))
    for minutes in at:
        for racer in racers:
            train_until(racer, 60 * minutes)
            record(judge(racer))


def train_until(racer: Race, seconds: float) -> None:
    """Iterates until the racer's own clock, which stands still in between, shows so many seconds."""
    start = time.perf_counter() - racer.seconds
    while racer.seconds < seconds:
        racer.iterate()
        racer.seconds = time.perf_counter() - start


def judge(racer: Race) -> Mark:
    recipe = racer.recipe
    found = evaluate(
        racer.learner.at_test, recipe.test_source(), tasks=recipe.test_tasks, steps=recipe.test_steps,
        meta_batch=EVALUATION_BATCH, seed=recipe.test_seed,
    )  # fmt: skip
    assert found.accuracy is not None
    assert found.accuracy_ci95 is not None
    accuracy, ci95 = found.accuracy[-1].item(), found.accuracy_ci95[-1].item()
    return Mark(racer.name, racer.seconds / 60, racer.iterations, accuracy, ci95)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    chosen: dict[str, Any] = {"data": options.data, "seed": options.seed}
    recipe = RECIPES[options.recipe](**chosen)
    print("\n".join(f"{name}: {value}" for name, value in {**machine(), "threads": options.threads}.items()))
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[Mark] = []

    def record(mark: Mark) -> None:
        found.append(mark)
        write(found, options.out / "accuracy.csv")
        print(
            f"{mark.learner:12} {mark.minutes:7.2f} min {mark.iterations:7} iterations   "
            f"accuracy {mark.accuracy:.2%} ± {mark.ci95:.2%}",
            flush=True,
        )

    race(recipe, options.learners, marks(options.minutes, options.marks), record)
    draw(recipe, found, options.out / "accuracy.png")


def write(found: Sequence[Mark], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Mark)])
        writer.writeheader()
        writer.writerows(asdict(mark) for mark in found)


def draw(recipe: Recipe, found: Sequence[Mark], path: Path) -> None:
    names = dict.fromkeys(mark.learner for mark in found)
    courses = [_course(name, [mark for mark in found if mark.learner == name]) for name in names]
    paper = recipe.paper()
    reported = float(next(iter(paper.values())).split()[0]) / 100 if paper else None
    ways = getattr(recipe, "ways", 0)
    title = f"{recipe.name}, {ways}-way {recipe.shots}-shot, {recipe.test_tasks} test tasks"
    figures.accuracy_over_time(courses, path, title=title, published=reported, chance=1 / ways)


def _course(name: str, found: Sequence[Mark]) -> figures.Course:
    minutes, accuracy, ci95 = zip(*((mark.minutes, mark.accuracy, mark.ci95) for mark in found), strict=True)
    return figures.Course(f"{name}, {found[-1].iterations:,} iterations", minutes, accuracy, ci95)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description="Accuracy against minutes of training.")
    parser.add_argument("--recipe", choices=RECIPE_NAMES, default="omniglot", help="what is trained")
    parser.add_argument("--data", help="folder that holds the data [default: the environment variable FASTMAML_DATA]")
    parser.add_argument("--minutes", type=float, default=45, help="of training, for each learner")
    parser.add_argument("--marks", type=int, default=15, help="how often each is judged")
    parser.add_argument("--learners", nargs="+", choices=tuple(LEARNERS), default=list(LEARNERS), help="who trains")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights and the tasks")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/curves"), help="folder for accuracy.csv and accuracy.png"
    )
    return parser
