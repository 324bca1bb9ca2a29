"""python -m bench.simulation: steps a second of the batched environments, beside Gymnasium's own ways of stepping.

Each batched environment is first held to the registered one, step by step; one that differs gets no time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np

from bench.environment import machine
from fastmaml.rl import Ant, BatchedEnvironment, HalfCheetah, Navigation2D

TOLERANCE = 1e-6
SYNC_COPIES = 16


@dataclass(frozen=True)
class Case:
    """A batched environment, by its number of threads, and the name under which Gymnasium has it."""

    name: str
    batched: Callable[[int], BatchedEnvironment]
    largest_action: float


CASES = (
    Case("fastmaml/Navigation2D-v0", lambda threads: Navigation2D(), 0.1),
    Case("fastmaml/HalfCheetahDirection-v0", lambda threads: HalfCheetah("direction", threads=threads), 1.0),
    Case("fastmaml/AntDirection-v0", lambda threads: Ant("direction", threads=threads), 1.0),
)
Steps = Generator[int, None, None]  # each item: how many steps of episodes were just made


def difference(case: Case, threads: int, steps: int = 10) -> float:
    """The largest of any observation or reward between the batched and the registered environment."""
    batched, generator = case.batched(threads), np.random.default_rng(0)
    tasks = batched.sample_tasks(3, generator)
    batched.reset(tasks, 2, generator)
    singles = {at: _single_at(case, batched, tasks, at) for at in np.ndindex(3, 2)}
    worst = 0.0
    for _ in range(steps):
        actions = _actions(case, (3, 2, batched.actions), generator)
        observations, rewards, ended = batched.step(actions)
        for at, single in list(singles.items()):
            expected, reward, terminated, *_ = single.step(actions[at])
            worst = max(worst, np.abs(observations[at] - expected).max(), abs(rewards[at] - reward))
            worst = worst if terminated == ended[at] else np.inf
            if terminated:
                del singles[at]
    return float(worst)


def _single_at(case: Case, batched: BatchedEnvironment, tasks: np.ndarray, at: tuple[int, ...]) -> gymnasium.Env:
    single = gymnasium.make(case.name, goal=tasks[at[0]]).unwrapped
    single.reset(seed=0)
    if not isinstance(batched, Navigation2D):
        single.set_state(batched.qpos[at], batched.qvel[at])  # type: ignore[attr-defined]
    return single


def batched_steps(case: Case, options: argparse.Namespace) -> Steps:
    environment, generator = case.batched(options.threads), np.random.default_rng(0)
    shape = (options.tasks, options.episodes, environment.actions)
    actions = [_actions(case, shape, generator) for _ in range(environment.horizon)]
    while True:
        environment.reset(environment.sample_tasks(options.tasks, generator), options.episodes, generator)
        alive = np.ones(shape[:2], bool)
        for action in actions:
            ended = environment.step(action)[2]
            yield int(alive.sum())
            alive &= ~ended
            if not alive.any():
                break


def single_steps(case: Case, options: argparse.Namespace) -> Steps:
    environment, generator = gymnasium.make(case.name), np.random.default_rng(0)
    actions = _actions(case, (1000, *environment.action_space.shape), generator)  # type: ignore[misc]
    while True:
        environment.reset(seed=int(generator.integers(2**31)))
        for action in actions:
            _, _, terminated, truncated, _ = environment.step(action)
            yield 1
            if terminated or truncated:
                break


def sync_steps(case: Case, options: argparse.Namespace) -> Steps:
    return _vector_steps(case, "sync", SYNC_COPIES)


def async_steps(case: Case, options: argparse.Namespace) -> Steps:
    return _vector_steps(case, "async", options.threads)


def _vector_steps(case: Case, mode: str, copies: int) -> Steps:
    environments, generator = gymnasium.make_vec(case.name, copies, mode), np.random.default_rng(0)
    shape = environments.action_space.shape
    actions = [_actions(case, shape, generator) for _ in range(1000)]  # type: ignore[arg-type]
    environments.reset(seed=0)
    over = np.zeros(copies, bool)
    try:
        while True:
            for action in actions:
                _, _, terminated, truncated, _ = environments.step(action)
                yield int((~over).sum())  # those that were over have just been reset instead
                over = terminated | truncated
    finally:
        environments.close()


CONTESTANTS: Mapping[str, Callable[[Case, argparse.Namespace], Steps]] = {
    "batched": batched_steps,
    "one at a time": single_steps,
    f"sync vector, {SYNC_COPIES}": sync_steps,
    "async vector": async_steps,
}


def rates(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """Steps a second by contestant: the median of rounds in which each has its turn."""
    running = {name: start(case, options) for name, start in CONTESTANTS.items()}
    for steps in running.values():
        next(steps)  # what is set up once is not measured
    found: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, steps in running.items():
            found[name].append(_rate(steps, options.seconds))
    for steps in running.values():
        steps.close()
    return {name: statistics.median(each) for name, each in found.items()}


def _rate(steps: Steps, seconds: float) -> float:
    made, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        made += next(steps)
    return made / (now - start)


def _actions(case: Case, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    return generator.uniform(-case.largest_action, case.largest_action, shape).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    print(", ".join(f"{name} {value}" for name, value in machine().items() if "torch" not in name))
    sizes = f"{options.tasks} tasks × {options.episodes} episodes, {options.threads} threads"
    print(f"steps a second; batched: {sizes}; in brackets: of Gymnasium one at a time")
    print(f"{'':34}" + "".join(f"{name:>20}" for name in CONTESTANTS))
    for case in CASES:
        print(f"{case.name:34}" + _line(case, options), flush=True)


def _line(case: Case, options: argparse.Namespace) -> str:
    worst = difference(case, options.threads)
    if not worst <= TOLERANCE:
        return f"  differs from the registered environment by {worst:.1e}: not timed"
    found = rates(case, options)
    cells = [f"{rate:,.0f} ({rate / found['one at a time']:.2f}×)" for rate in found.values()]
    return "".join(f"{cell:>20}" for cell in cells) + f"   largest difference {worst:.0e}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulation", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20, help="tasks stepped at once [default: 20]")
    parser.add_argument("--episodes", type=int, default=20, help="episodes of each [default: 20]")
    parser.add_argument("--threads", type=int, default=2, help="threads, and processes of async [default: 2]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant [default: 5]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn [default: 1]")
    return parser


if __name__ == "__main__":
    main()
