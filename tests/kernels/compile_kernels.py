"""Compiles kernels for GPUs that need not be here, and prints what each takes: run as a program, without interpreter.

python -m tests.kernels.compile_kernels [NAME ...]      one JSON object of {"name sm": [registers, shared, spills]}
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastmaml.engines.gpu_network import blocks_of
from fastmaml.kernels import mlp
from fastmaml.kernels.mlp_launch import FLAT, options
from fastmaml.kernels.mlp_network import network, padded
from fastmaml.models import OmniglotMLP, SinusoidMLP
from fastmaml.plan import Plan

CHIPS = (80, 90)
PROGRAMS = 1056  # of an H100: 132 multiprocessors


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], launch: dict[str, Any], chip: int) -> Any:
    """The kernel for compute capability chip / 10; `types` of the arguments that are not *fp32."""
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", chip, 32), options=launch)


def usage(binary: Any) -> list[int]:
    """Registers of a thread, bytes of shared memory, bytes of stack (spills)."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True)
    found = dict(re.findall(r"(REG|STACK):(\d+)", text.stdout))
    return [int(found["REG"]), binary.metadata.shared, int(found["STACK"])]


def meta(plan: Plan, tasks: int, n: int, m: int, mode: str, precision: str, chip: int) -> list[int]:
    """The one launch of a meta-gradient."""
    blocks = blocks_of(plan)
    assert not isinstance(blocks, str)
    labels = "*i64" if plan.loss_name == "cross_entropy" else "*fp32"
    counts = ("SCRATCH", "tasks", "steps", "n", "m", "features", "support_y_stride", "query_y_stride")
    types = {"support_y": labels, "query_y": labels} | dict.fromkeys(counts, "i32")
    constants = {
        "SIZE": plan.num_parameters,
        "NET": network(blocks, max(n, m), plan.loss_name or "", False, precision),
        "N_PADDED": padded(n),
        "M_PADDED": padded(m),
        "MODE": mode,
        "FLAT": FLAT,
    }
    launch = options(blocks, max(n, m), tasks, PROGRAMS)
    return usage(compiled(mlp._meta_kernel, types, constants, launch, chip))


def sinusoid(tasks: int, precision: str, chip: int) -> list[int]:
    return meta(Plan.of(SinusoidMLP(), "mse"), tasks, 10, 10, "reverse", precision, chip)


def omniglot(precision: str, chip: int) -> list[int]:
    return meta(Plan.of(OmniglotMLP(), "cross_entropy"), 32, 5, 5, "reverse", precision, chip)


CASES = {
    "sinusoid 25 tasks ieee": lambda chip: sinusoid(25, "ieee", chip),
    "sinusoid 65536 tasks ieee": lambda chip: sinusoid(65536, "ieee", chip),
    "omniglot-mlp tf32": lambda chip: omniglot("tf32", chip),
    "omniglot-mlp ieee": lambda chip: omniglot("ieee", chip),
}


def main(names: list[str]) -> None:
    found = {f"{name} sm_{chip}": CASES[name](chip) for name in names or CASES for chip in CHIPS}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
