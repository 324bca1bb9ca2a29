"""python -m bench.gpu: the meta-gradient on a GPU, parity first, ours against the rivals in one run.

Torch's contestants are timed with CUDA events over calls without a wait between them; JAX, which has its own streams,
by the clock over calls that end in block_until_ready. Ours is timed twice: replayed as a CUDA graph, and launched
kernel by kernel as the engine is called.

Deep networks of ReLU and max-pooling have samples within rounding of a kink, where float32 may take either branch: a
contestant may then err, against float64, twice as much as eager PyTorch in float32 does ("eager_error").
Results go to bench/results/<gpu>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import gpu_count, rivals
from bench.contest import Entry, allowed, enter, flat, relative_error, truth
from bench.problem import CASES, Problem, sinusoid
from fastmaml import SecondOrder, TaskBatch
from fastmaml.batch import Samples

NAMES = ("sinusoid-1", "sinusoid-5", "sinusoid-65536", "omniglot-5way", "functorch-omniglot", "mini-imagenet-1shot")
RIVALS = ("learn2learn", "loop", "torch_func", "torch_compile", "jax_jit")
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.count:
        _print_counts(options.case)
        return
    if not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a GPU that torch can use; `python -m bench.gpu --count` needs none")
    torch.set_float32_matmul_precision(options.precision)
    torch.backends.cudnn.allow_tf32 = options.precision != "highest"
    end = time.monotonic() + options.minutes * 60
    result: dict[str, Any] = {**_facts(), "precision": options.precision, **_peaks(), "cases": {}}
    for key, value in result.items():
        print(f"{key}: {value}", flush=True)
    for name in options.case:
        result["cases"][name] = _measure(name, options.rivals, end, result)
        _write(result)


def _measure(name: str, names: Sequence[str], end: float, peaks: dict[str, Any]) -> dict[str, Any]:
    problem, reference, eager = _problem(name)
    tolerance = allowed(eager)
    counted = gpu_count.count(problem)
    found: dict[str, Any] = {"operations": counted.operations, "launches": counted.launches, "bytes": counted.bytes}
    found["eager_error"] = eager
    print(f"\n{name}: {counted.operations / 1e9:.3f} GFLOP, {counted.launches} launches", flush=True)
    steps = {"graph": lambda: _graphed(problem), "launched": lambda: _launched(problem)}
    entries = [_own(f"fastmaml {kind}", prepare, reference, tolerance) for kind, prepare in steps.items()]
    for rival in () if name == "sinusoid-65536" else names:
        if time.monotonic() > end:
            entries.append(Entry(rival, obstacle="not measured: the time is up"))
            continue
        entries.append(enter(rival, problem, reference, tolerance))
    for entry in entries:
        if entry.step is not None and entry.obstacle is None:
            clock = _by_clock if entry.name == "jax_jit" else _by_events
            entry.turns = clock(entry.step)
        found[entry.name] = _told(entry, counted, peaks)
        print(f"  {entry.name:20} {found[entry.name]}", flush=True)
        entry.step = None
    torch.cuda.empty_cache()
    return found


def _problem(name: str) -> tuple[Problem, Tensor, float]:
    """On the GPU, its meta-gradient by the reference in float64 (of many equal parts, of one), and float32's error."""
    device = torch.device("cuda")
    if name != "sinusoid-65536":
        problem = CASES[name]().on(device)
        return problem, *truth(problem)
    part = sinusoid(1, tasks=256).on(device)
    sets = (part.batch.support, part.batch.query)
    batch = TaskBatch(*(Samples(s.x.repeat(256, 1, 1), s.y.repeat(256, 1, 1)) for s in sets))
    return Problem(name, part.network, batch, 1, part.lr, part.loss), *truth(part)


def _launched(problem: Problem) -> Callable[[], tuple[Any, Sequence[Any]]]:
    from fastmaml.engines.gpu import GpuEngine

    engine, plan = GpuEngine(), problem.plan
    theta, lr = plan.flatten(list(problem.network.parameters())).detach(), problem.inner_lr(plan)

    def step() -> tuple[Any, Sequence[Any]]:
        found = engine.meta_gradient(plan, theta, lr, problem.batch, problem.steps, SecondOrder())
        return found.query_losses, [found.gradient]

    return step


def _graphed(problem: Problem) -> Callable[[], tuple[Any, Sequence[Any]]]:
    """The engine's launches, captured once; nothing is allocated or waited for when they are replayed."""
    step, stream = _launched(problem), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # compiles
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = step()

    def replay() -> tuple[Any, Sequence[Any]]:
        graph.replay()
        return answer

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


def _by_events(call: Callable[[], Any], turns: int = 7, seconds: float = 0.4) -> list[float]:
    """Seconds of a call, one median of each turn; as many calls a turn as fill it."""
    for _ in range(3):
        call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def of(calls: int) -> float:
        begin.record()  # type: ignore[no-untyped-call]
        for _ in range(calls):
            call()
        end.record()  # type: ignore[no-untyped-call]
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / calls

    calls = max(1, min(1000, int(seconds / turns / of(1))))
    return [of(calls) for _ in range(turns)]


def _by_clock(call: Callable[[], Any], turns: int = 7, seconds: float = 0.4) -> list[float]:
    call()
    start = time.perf_counter()
    call()
    calls = max(1, min(1000, int(seconds / turns / (time.perf_counter() - start))))
    found = []
    for _ in range(turns):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - start) / calls)
    return found


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


def _peaks() -> dict[str, float]:
    """Of this GPU, at the precision in force: products of 8192² matrices, copies of a gibibyte."""
    a, b = (torch.rand(8192, 8192, device="cuda") for _ in range(2))
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    product = statistics.median(_by_events(lambda: torch.mm(a, b)))
    copy = statistics.median(_by_events(lambda: target.copy_(source)))
    return {"matmul_operations_per_second": 2 * 8192**3 / product, "copy_bytes_per_second": 2 * 2**30 / copy}


def _facts() -> dict[str, str]:
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    versions = {}
    for package in ("torch", "triton", "jax"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"gpu": torch.cuda.get_device_name(), "date": date, "commit": git.stdout.strip() or "unknown", **versions}


def _write(result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    name = "-".join(str(result["gpu"]).lower().split()) + f"-{result['precision']}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


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
    parser.add_argument("--minutes", type=float, default=6, help="after which no further rival is begun")
    parser.add_argument("--count", action="store_true", help="count operations, launches and bytes; needs no GPU")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
