"""python -m bench.gpu: the meta-gradient on a GPU, parity first, ours against the rivals in one run; a training run.

Torch's contestants are timed with CUDA events over calls without a wait between them; JAX, which has its own streams,
by the clock over calls that end in block_until_ready. Ours is timed twice: replayed as a CUDA graph, and launched
kernel by kernel as the engine is called.

Deep networks of ReLU and max-pooling have samples within rounding of a kink, where float32 may take either branch: a
contestant may then err, against float64, twice as much as eager PyTorch in float32 does ("eager_error").

Kernels are compiled first, all cases at a time in processes of their own. Then our engines are held against the
reference in float64 and ours is measured, on every case; then the training run, then the rivals as far as the time
goes. Each result is written, to bench/results/<gpu>.json, as soon as it is there. Nothing is downloaded that is not
asked for: learn2learn's source is looked for in XDG_CACHE_HOME/fastmaml, and Omniglot in --data or FASTMAML_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import gpu_count, rivals
from bench.contest import Entry, allowed, enter, flat, relative_error, truth
from bench.environment import ROOT
from bench.gpu_machine import by_clock, by_events, facts, peaks
from bench.gpu_training import omniglot_run
from bench.problem import CASES, Problem, sinusoid
from fastmaml import SecondOrder, TaskBatch
from fastmaml.batch import Samples
from fastmaml.engines import Engine
from fastmaml.training.captured import CudaGraph

NAMES = ("sinusoid-1", "sinusoid-5", "sinusoid-65536", "omniglot-5way", "functorch-omniglot", "mini-imagenet-1shot")
RIVALS = ("learn2learn", "loop", "torch_func", "torch_compile", "jax_jit")
RESULTS = Path(__file__).parent / "results"
FIRST_CALL = 60
"""Seconds that a rival's first call may take, compilation included."""

JAX_PRECISION = {"highest": "highest", "high": "tensorfloat32", "medium": "bfloat16"}
"""JAX's names for torch's precisions; its own default is TF32 where there are tensor cores."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.count:
        _print_counts(options.case)
        return
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a GPU that torch can use; `python -m bench.gpu --count` needs none")
    _set_precision(options.precision)
    if options.compile:
        _launched(_inputs(options.case[0])[0])()
        torch.cuda.synchronize()
        return
    _run(options)


def _run(options: argparse.Namespace) -> None:
    end = time.monotonic() + options.minutes * 60
    result: dict[str, Any] = {**facts(), "precision": options.precision}
    result["seconds_of_compilation"] = _compile(options.case, options.precision)
    result |= peaks()
    for key, value in result.items():
        print(f"{key}: {value}", flush=True)
    result["cases"] = {}
    write = lambda: _write(result, options.out)  # noqa: E731
    contests = [contest for name in options.case if (contest := _Contest.open(name, result)) is not None]
    for contest in contests:
        contest.parity()
        write()
    for contest in contests:
        contest.ours()
        write()
    if options.iterations:
        result["omniglot_run"] = _guarded(lambda: omniglot_run(options.data, options.iterations))
        print(f"\nomniglot_run: {result['omniglot_run']}", flush=True)
        write()
    for contest in contests:
        print(f"\n{contest.name}, rivals", flush=True)
        for rival in () if contest.name == "sinusoid-65536" else options.rivals:
            contest.rival(rival, end)
            write()


def _set_precision(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = JAX_PRECISION[precision]  # read when JAX is imported


def _compile(names: Sequence[str], precision: str) -> float:
    """Fills Triton's cache on disk with the kernels of all cases, each in a process; seconds that took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench.gpu", "--compile", "--precision", precision, "--case"]
    running = [subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.DEVNULL) for name in names]
    for process in running:
        process.wait()  # one that fails will fail again where it is measured, and be told there
    return time.perf_counter() - start


def _guarded(call: Callable[[], Any]) -> Any:
    """What it gives, or that it failed: one case must not take the others with it."""
    try:
        return call()
    except Exception as error:
        traceback.print_exc()
        return {"obstacle": f"failed: {type(error).__name__}: {error}"}


class _Contest:
    """One case: its right answer, and who has been measured on it."""

    def __init__(self, name: str, result: dict[str, Any]) -> None:
        self.name, self.peaks = name, result
        self.problem, self.reference, self.eager = _problem(name)
        self.counted = gpu_count.count(self.problem)
        self.found: dict[str, Any] = {
            "operations": self.counted.operations,
            "launches": self.counted.launches,
            "bytes": self.counted.bytes,
            "eager_error": self.eager,
        }
        result["cases"][name] = self.found

    @classmethod
    def open(cls, name: str, result: dict[str, Any]) -> _Contest | None:
        opened = _guarded(lambda: cls(name, result))
        if isinstance(opened, _Contest):
            return opened
        result["cases"][name] = opened
        return None

    def parity(self) -> None:
        """Relative errors of our engines on the device, by name; that of the reference in float32 is eager_error."""
        self.found["parity"] = {}
        for name in ("gpu", "functional"):
            error = _guarded(lambda name=name: relative_error(flat(_launched(self.problem, name)()[1]), self.reference))  # type: ignore[misc]
            self.found["parity"][name] = error
            print(f"{self.name}: engine {name}, relative error {error}", flush=True)
            torch.cuda.empty_cache()

    def ours(self) -> None:
        counted = self.counted
        print(f"\n{self.name}: {counted.operations / 1e9:.3f} GFLOP, {counted.launches} launches", flush=True)
        for kind, prepare in (("graph", _graphed), ("launched", _launched)):
            self._measure(_own(f"fastmaml {kind}", lambda p=prepare: p(self.problem), self.reference, self.tolerance))  # type: ignore[misc]

    def rival(self, name: str, end: float) -> None:
        left = end - time.monotonic()
        if left < 5:
            self._measure(Entry(name, obstacle="not measured: the time is up"))
        else:
            self._measure(enter(name, self.problem, self.reference, self.tolerance, min(left, FIRST_CALL)))

    @property
    def tolerance(self) -> float:
        return allowed(self.eager)

    def _measure(self, entry: Entry) -> None:
        if entry.step is not None and entry.obstacle is None:
            clock = by_clock if entry.name == "jax_jit" else by_events
            try:
                entry.turns = clock(entry.step)
            except Exception as error:  # as on the first call
                entry.obstacle = f"failed: {type(error).__name__}: {error}"
        self.found[entry.name] = _told(entry, self.counted, self.peaks)
        if entry.name.startswith("jax") and "jax" in sys.modules:
            self.found[entry.name]["backend"] = sys.modules["jax"].default_backend()  # "cpu" where JAX has no GPU
        print(f"  {entry.name:20} {self.found[entry.name]}", flush=True)
        entry.step = None
        torch.cuda.empty_cache()


def _problem(name: str) -> tuple[Problem, Tensor, float]:
    """On the GPU, its meta-gradient by the reference in float64 (of many equal parts, of one), and float32's error."""
    problem, part = _inputs(name)
    return problem, *truth(part)


def _inputs(name: str) -> tuple[Problem, Problem]:
    """On the GPU, the problem and one of the same meta-gradient with fewer tasks."""
    device = torch.device("cuda")
    if name != "sinusoid-65536":
        problem = CASES[name]().on(device)
        return problem, problem
    part = sinusoid(1, tasks=256).on(device)
    sets = (part.batch.support, part.batch.query)
    support, query = (Samples(s.x.repeat(256, 1, 1), s.y.repeat(256, 1, 1)) for s in sets)
    return Problem(name, part.network, TaskBatch(support, query), 1, part.lr, part.loss), part


def _launched(problem: Problem, name: str = "gpu") -> Callable[[], tuple[Any, Sequence[Any]]]:
    """An engine of ours as it is called."""
    from fastmaml.engines.functional import FunctionalEngine
    from fastmaml.engines.gpu import GpuEngine

    engine: Engine = GpuEngine() if name == "gpu" else FunctionalEngine()
    plan = problem.plan
    theta, lr = plan.flatten(list(problem.network.parameters())).detach(), problem.inner_lr(plan)

    def step() -> tuple[Any, Sequence[Any]]:
        found = engine.meta_gradient(plan, theta, lr, problem.batch, problem.steps, SecondOrder())
        return found.query_losses, [found.gradient]

    return step


def _graphed(problem: Problem) -> Callable[[], tuple[Any, Sequence[Any]]]:
    """The engine's launches, captured once; nothing is allocated or waited for when they are replayed."""
    step, graph, answers = _launched(problem), CudaGraph(torch.device("cuda", torch.cuda.current_device())), []
    step()  # compiles
    graph.capture(lambda: answers.append(step()))

    def replay() -> tuple[Any, Sequence[Any]]:
        graph.replay()
        return answers[0]  # type: ignore[no-any-return]

    return replay


def _own(name: str, prepare: Callable[[], Callable[[], Any]], reference: Tensor, tolerance: float) -> Entry:
    entry = Entry(name)
    try:
        start = time.perf_counter()
        entry.step = prepare()
        entry.error = relative_error(flat(entry.step()[1]), reference)
        entry.first_call = time.perf_counter() - start
    except Exception as error:  # a failure is a result, to be shown with the others
        entry.obstacle = f"failed: {type(error).__name__}: {error}"
        return entry
    if not entry.error <= tolerance:
        entry.obstacle = f"wrong: relative error {entry.error:.1e} is above {tolerance:.0e}"
    return entry


def _told(entry: Entry, counted: gpu_count.Count, peaks: dict[str, Any]) -> dict[str, Any]:
    if entry.seconds is None:
        return {"obstacle": entry.obstacle, "error": entry.error}
    return {
        "microseconds": round(entry.seconds * 1e6, 1),
        "error": entry.error,
        "share_of_matmul": counted.operations / entry.seconds / peaks["matmul_operations_per_second"],
        "share_of_copy": counted.bytes / entry.seconds / peaks["copy_bytes_per_second"],
        "first_call_seconds": entry.first_call,
        "turns": entry.turns,
    }


def _write(result: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = "-".join(str(result["gpu"]).lower().split()) + f"-{result['precision']}.json"
    (folder / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _print_counts(names: Sequence[str]) -> None:
    print(f"{'':22}{'GFLOP':>10}{'launches':>10}{'MB':>10}{'floor µs, ieee':>16}{'tf32':>8}")
    for name in names:
        problem = sinusoid(1, tasks=65536) if name == "sinusoid-65536" else CASES[name]()
        found = gpu_count.count(problem)
        floors = [found.floor(precision) * 1e6 for precision in ("ieee", "tf32")]
        print(
            f"{name:22}{found.operations / 1e9:10.3f}{found.launches:10}{found.bytes / 1e6:10.1f}"
            f"{floors[0]:16.0f}{floors[1]:8.0f}",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--case", nargs="+", choices=NAMES, default=list(NAMES), help="what to measure")
    parser.add_argument("--rivals", nargs="*", choices=rivals.NAMES, default=list(RIVALS), help="against whom")
    parser.add_argument("--precision", choices=("highest", "high", "medium"), default="highest", help="as torch's")
    parser.add_argument("--data", help="folder that holds Omniglot [default: the environment variable FASTMAML_DATA]")
    parser.add_argument("--iterations", type=int, default=60_000, help="of the training run; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result [default: bench/results]")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=7, help="after which no further rival is begun")
    parser.add_argument("--count", action="store_true", help="count operations, launches and bytes; needs no GPU")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
