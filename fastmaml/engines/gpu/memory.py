"""Out of memory on a GPU: what it was needed for, and what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastmaml.kernels.layered import Layered
from fastmaml.kernels.mlp_launch import Launcher, Needs


@contextmanager
def memory_told(launcher: Launcher | Layered, x: Tensor, steps: int, query: Tensor | None = None) -> Iterator[None]:
    """Out of memory says how much a task takes, and which T, N or K would fit. Results are fresh: none is half-written.

    x, query: [T, N, ...], [T, M, ...].
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        tasks, samples = x.shape[:2]
        needs = launcher.needs(samples, 0 if query is None else query.shape[1])
        message = advice(needs, tasks, samples, steps, free_bytes(x.device))
        raise torch.OutOfMemoryError(f"{error}\n{message}") from error


def free_bytes(device: torch.device) -> int:
    """What torch could still hand out on a device."""
    if device.type != "cuda":
        return 0
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + cached)


def advice(needs: Needs, tasks: int, samples: int, steps: int, free: int) -> str:
    """For T, N and K that did not fit, the one of each that would, if the others stay."""
    task = needs.fixed + needs.step * steps + needs.sample * samples
    budget = free // 4 // min(tasks, needs.in_flight)  # float32 numbers for each task in flight
    fitting = [f"T={free // 4 // task}"] if free // 4 >= task else []
    if needs.sample and (least := budget - needs.fixed - needs.step * steps) >= needs.sample:
        fitting.append(f"N={min(least // needs.sample, samples)}")
    if steps and (least := budget - needs.fixed - needs.sample * samples) >= needs.step:
        fitting.append(f"K={min(least // needs.step, steps)}")
    remedy = f"about {' or '.join(fitting)} would fit" if fitting else "not even one task would fit"
    return (
        f"T={tasks} tasks of N={samples} samples and K={steps} steps take {4 * task / 2**20:.1f} MiB for each task in "
        f"flight, {min(tasks, needs.in_flight)} at a time; with {free / 2**20:.0f} MiB free, {remedy}: take fewer "
        "tasks at a time and accumulate gradients, or fewer samples or steps"
    )
