"""python -m bench.memory: how peak memory grows with the number of inner steps, against parameter copies."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import torch

from bench import rivals
from bench.contest import ours
from bench.problem import Problem, mini_imagenet, omniglot_mlp, sinusoid
from bench.rivals import Step

NETWORKS: Mapping[str, Callable[..., Problem]] = {
    "sinusoid": sinusoid,
    "omniglot-mlp": omniglot_mlp,
    "mini-imagenet": mini_imagenet,
}


def peak(network: str, engine: str, tasks: int, steps: int, threads: int) -> int:
    """Peak resident bytes of a fresh process that takes two meta-gradients."""
    arguments = [f"--network={network}", f"--engine={engine}", f"--tasks={tasks}", f"--threads={threads}"]
    command = [sys.executable, "-m", "bench.memory", *arguments, f"--steps={steps}", "--child"]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return int(json.loads(answer.splitlines()[-1]))


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.child:
        print(json.dumps(_child(options)))
        return
    plan = NETWORKS[options.network](steps=1).plan
    copies = (options.steps - 1) * options.tasks * plan.num_parameters * 4
    sizes = (options.network, options.engine, options.tasks)
    few, many = (peak(*sizes, steps, options.threads) for steps in (1, options.steps))
    print(f"{options.network}, {options.tasks} tasks, engine {options.engine}, peak resident memory in MiB:")
    print(f"  K = 1                        {few / 2**20:10.1f}")
    print(f"  K = {options.steps:<3}                      {many / 2**20:10.1f}")
    print(f"  growth                       {(many - few) / 2**20:10.1f}")
    print(f"  (K − 1)·T·P parameter copies {copies / 2**20:10.1f}")


def _child(options: argparse.Namespace) -> int:
    torch.set_num_threads(options.threads)
    step = _step(options.engine, NETWORKS[options.network](steps=options.steps, tasks=options.tasks))
    step()
    step()
    return _high_water_mark()


def _step(engine: str, problem: Problem) -> Step:
    return rivals.prepare(engine, problem) if engine in rivals.NAMES else ours(problem, engine)


def _high_water_mark() -> int:
    """Peak resident bytes of this program. (getrusage would also count the parent's, before exec.)"""
    with open("/proc/self/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--network", choices=tuple(NETWORKS), default="omniglot-mlp", help="see bench/problem.py")
    parser.add_argument("--engine", default="cpu", help="engine of fastmaml, or a rival")
    parser.add_argument("--tasks", type=int, default=8, help="tasks of the meta-batch")
    parser.add_argument("--steps", type=int, default=50, help="inner steps, compared with 1")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
