"""Launches kernels on a GPU that is not there: all that Triton does for a launch but the launch itself.

Arguments are bound and specialised as they are when the engine calls, and each variant is compiled for sm_90. Run as a
program, without interpreter: python -m tests.kernels.launch_dry prints a JSON object of {case: [kernels launched]}.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from fastmaml import FirstOrder, SecondOrder, TaskBatch
from fastmaml.engines.gpu import GpuEngine
from fastmaml.gradients import GradientRule
from fastmaml.plan import InnerLr, Plan
from tests.kernels.test_layered import conv4, images
from tests.kernels.test_policies import episodes, policy
from tests.problems import network, task_batch

SHARED = 227 * 1024
launched: list[str] = []


class Launcher:
    """In place of Triton's C launcher: checks what a GPU would refuse."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(self, x: int, y: int, z: int, *others: Any) -> None:
        assert 0 < x < 2**31, f"{self.name}: grid {x, y, z}"
        assert 0 < y < 65536 > z > 0, f"{self.name}: grid {x, y, z}"
        launched.append(self.name)


class Utilities:
    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, ...]:
        assert len(binary) > 0
        return 1, 1, 255, 0, 1024  # module, function, registers, spills, threads


class Absent:
    """A driver of one H100."""

    utils, launcher_cls = Utilities(), Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def verbs(module: torch.nn.Module, loss: str, batch: TaskBatch, rule: GradientRule, learned: bool) -> list[str]:
    launched.clear()
    engine, plan, batch = GpuEngine(devices=("cpu",)), Plan.of(module.float(), loss), batch.to(torch.float32)
    theta = plan.flatten(list(module.parameters())).detach()
    lr = InnerLr(torch.full_like(theta, 0.1), True, learned)
    engine.meta_gradient(plan, theta, lr, batch, 2, rule)
    fast, _ = engine.adapt(plan, theta, lr, batch.support, 1)
    engine.predict(plan, fast, batch.query.x)
    engine.hvp(plan, fast, batch.support, fast)
    return list(launched)


def main() -> None:
    driver.set_active(Absent())
    padded = task_batch(loss="cross_entropy", ragged=True)
    found = {
        "fully connected": verbs(network((3, 5, 2)), "mse", task_batch(), SecondOrder(), False),
        "padded, learned": verbs(network((3, 5, 2), norm=True), "cross_entropy", padded, FirstOrder(), True),
        "a policy": verbs(policy("gaussian"), "gaussian", episodes("gaussian"), SecondOrder(), False),
        "images": verbs(conv4(depth=1, pool=True, features=8), "cross_entropy", images(), SecondOrder(), True),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
