"""torch.compile of the torch.func form."""

from __future__ import annotations

import torch

from bench.problem import Problem
from bench.rivals import Step
from bench.rivals.torch_func import as_step, meta_gradient


def prepare(problem: Problem) -> Step:
    torch.compiler.reset()  # one case must not make the next one's shapes dynamic
    on_gpu = next(problem.network.parameters()).device.type == "cuda"
    mode = "reduce-overhead" if on_gpu else "default"  # CUDA graphs, where it can have them
    return as_step(torch.compile(meta_gradient(problem), dynamic=False, mode=mode), problem)
