"""Compiles kernels for GPUs that need not be here, and prints what each takes: run as a program, without interpreter.

python -m tests.kernels.compile_kernels [NAME ...]      one JSON object of {"name chip": [registers, shared, spills]}
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastmaml.engines.gpu.fused import blocks_of
from fastmaml.kernels import conv as conv_kernels
from fastmaml.kernels import conv_launch, flat, losses, mlp, norm_launch
from fastmaml.kernels import head as heads
from fastmaml.kernels import moments as moment_kernels
from fastmaml.kernels import norm as norm_kernels
from fastmaml.kernels.conv_launch import TILES, Conv, Reading
from fastmaml.kernels.mlp_launch import FLAT, options
from fastmaml.kernels.mlp_network import network, padded
from fastmaml.kernels.norm_launch import Unit
from fastmaml.models import OmniglotMLP, SinusoidMLP
from fastmaml.plan import Plan

PROGRAMS = 1056  # of an H100: 132 multiprocessors


Chip = int | str
"""A compute capability times 10 of NVIDIA's, or the name of one of AMD's."""


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], launch: dict[str, Any], chip: Chip) -> Any:
    """The kernel for a chip; `types` of the arguments that are not *fp32.

    Pointers and the size of scratch memory are multiples of 16, as they are when the engine launches.
    """
    signature = {name: types.get(name, "*fp32") for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    aligned = [n for n, kind in signature.items() if kind.startswith("*") or (n == "SCRATCH" and kind == "i32")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constexprs=places, attrs=attributes)
    target = GPUTarget("hip", chip, 64) if isinstance(chip, str) else GPUTarget("cuda", chip, 32)
    return triton.compile(source, target=target, options=launch)


def name_of(chip: Chip) -> str:
    return chip if isinstance(chip, str) else f"sm_{chip}"


def usage(binary: Any) -> list[int]:
    """Registers of a thread, bytes of shared memory, bytes of stack (spills; on AMD's chips numbers)."""
    if "amdgcn" in binary.asm:
        known = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count): +(\d+)", binary.asm["amdgcn"]))
        return [int(known["vgpr_count"]), binary.metadata.shared, int(known["vgpr_spill_count"])]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], check=True, capture_output=True, text=True)
    found = dict(re.findall(r"(REG|STACK):(\d+)", text.stdout))
    return [int(found["REG"]), binary.metadata.shared, int(found["STACK"])]


def meta(plan: Plan, tasks: int, n: int, m: int, mode: str, precision: str, chip: Chip) -> list[int]:
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


def sinusoid(tasks: int, precision: str, chip: Chip) -> list[int]:
    return meta(Plan.of(SinusoidMLP(), "mse"), tasks, 10, 10, "reverse", precision, chip)


def other(kernel: str, chip: Chip, single: bool = False) -> list[int]:
    """Of the sinusoid's other verbs, one launch each. single: with counts of 1, which Triton makes constants."""
    plan = Plan.of(SinusoidMLP(), "mse")
    blocks = blocks_of(plan)
    assert not isinstance(blocks, str)
    function = getattr(mlp, f"_{kernel}_kernel")
    net = network(blocks, 10, "mse", single, "ieee")
    everything = {"SIZE": plan.num_parameters, "NET": net, "PADDED": 16, "N_PADDED": 16, "M_PADDED": 16, "FLAT": FLAT}
    everything |= {"MODE": "reverse+lr"} | (
        dict.fromkeys(("n", "m", "tasks", "steps", "features"), 1) if single else {}
    )
    constants = {name: value for name, value in everything.items() if name in function.arg_names}
    return usage(compiled(function, _counts(function, constants), constants, options(blocks, 10, 25, PROGRAMS), chip))


def flat_kernel(kernel: str, mode: str, chip: Chip) -> list[int]:
    """The flat updates, sums over tasks and losses."""
    function = losses._loss_kernel if kernel == "loss" else getattr(flat, f"_{kernel}_kernel")
    everything: dict[str, Any] = {"MODE": mode, "BLOCK": flat.BLOCK, "MASKED": True}
    everything |= {"PARTS": (64, 128, 18, 64, 64, 0), "COUNT": 1, "ROWS": flat.SPLIT_ROWS}
    everything |= {"ROWS": flat.SUM_ROWS, "BLOCK": flat.SUM_BLOCK} if kernel == "sum" else {}
    everything |= {"OUT": 4 if mode == "gaussian" else 5, "PADDED": 8, "CHUNK": 64}
    everything |= {"LOSS": mode, "WEIGHTED": True, "TANGENT": mode == "mse"}
    constants = {name: value for name, value in everything.items() if name in function.arg_names}
    if kernel == "loss":
        constants |= {"N": 1, "WEIGHTED": False} if mode == "mse" else {}
    types = _counts(function, constants) | ({"y": "*i64"} if mode == "cross_entropy" else {})
    return usage(compiled(function, types, constants, flat.OPTIONS, chip))


def conv(kernel: str, layer: Conv, unit: Unit, precision: str, chip: Chip) -> list[int]:
    """A tangent pass of a convolution whose input's unit it applies, where that is open; the largest form."""
    bm, bn, bk = TILES[precision]
    maps = torch.empty(1, 1, layer.inputs, layer.height, layer.width, device="meta")
    reading = Reading(maps, maps, unit if unit.window == 1 else None)
    constants = {**layer.shape, **reading.shape(layer.inputs), "BM": bm, "BN": bn, "BK": bk, "PRECISION": precision}
    if kernel == "forward":
        function = conv_kernels._forward_kernel
        constants |= {"TANGENT": True, "PAIRS": 2, "MOMENTS": True, "AT_ONCE": not isinstance(chip, str)}
    else:
        function = conv_kernels._backward_kernel
        constants |= {"MODE": "reverse", "SPLITS": 1, "WEIGHT_PAIRS": 2, "INPUT_PAIRS": 2}
        constants |= dict(zip(("WN", "WR", "WK"), layer.weight_tile(precision), strict=True))
    launch = conv_launch.READING if kernel == "forward" else conv_launch.BACKWARD
    return usage(compiled(function, _counts(function, constants), constants, launch, chip))


def moments(chip: Chip) -> list[int]:
    """A convolution that takes its maps' moments in the first pass."""
    bm, bn, bk = TILES["ieee"]
    constants = {**_OMNIGLOT.shape, **Reading(torch.empty(0)).shape(64), "BM": bm, "BN": bn, "BK": bk}
    constants |= {"TANGENT": False, "PAIRS": 1, "PRECISION": "ieee"}
    constants |= {"MOMENTS": True, "AT_ONCE": not isinstance(chip, str)}
    function = conv_kernels._forward_kernel
    return usage(compiled(function, _counts(function, constants), constants, conv_launch.OPTIONS, chip))


def finish(chip: Chip) -> list[int]:
    """The moments' end as a launch of its own."""
    constants, function = {"C": 64, "BN": TILES["ieee"][1], "TANGENT": False}, moment_kernels._finish_kernel
    return usage(compiled(function, _counts(function, constants), constants, conv_launch.OPTIONS, chip))


def first_layer(chip: Chip) -> list[int]:
    """The weight gradient of a first layer, which has tiles of its own, and no input gradient."""
    layer, (bm, bn, bk) = Conv(1, 64, 28, 28, 3, 2, 1, 0, 576), TILES["ieee"]
    constants = {**layer.shape, **Reading(torch.empty(0)).shape(1), "BM": bm, "BN": bn, "BK": bk}
    constants |= dict(zip(("WN", "WR", "WK"), layer.weight_tile("ieee"), strict=True))
    constants |= {"MODE": "step", "SPLITS": 1, "WEIGHT_PAIRS": 1, "INPUT_PAIRS": 0, "PRECISION": "ieee"}
    function = conv_kernels._backward_kernel
    return usage(compiled(function, _counts(function, constants), constants, conv_launch.BACKWARD, chip))


def head(features: int, unit: Unit | None, chip: Chip) -> list[int]:
    """The derivative of the last layer with its loss."""
    maps = torch.empty(1, 1, features, device="meta")
    constants: dict[str, Any] = {"IN": features, "OUT": 5, "WEIGHT": 64, "BIAS": 64 + 5 * features}
    constants |= Reading(maps, maps, unit).shape(features) | {"PLACES": unit.window**2 if unit else 1}
    constants |= {"LOSS": "cross_entropy", "WEIGHTED": False, "TANGENT": True, "PAIRS": 2, "WANTED": True}
    constants |= {"BELOW": True, "MODE": "reverse", "PADDED": 16, "ROWS": heads.ROWS, "HF": TILES["ieee"][1]}
    constants |= {"PRECISION": "ieee"}
    function = heads._head_kernel
    types = _counts(function, constants) | {"y": "*i64"}
    return usage(compiled(function, types, constants, heads.OPTIONS, chip))


def norm(kernel: str, unit: Unit, chip: Chip) -> list[int]:
    constants = dict(unit.shape)
    if kernel == "backward":
        constants |= {"TANGENT": True, "WANTED": True, "MODE": "reverse"}
    function = getattr(norm_kernels, f"_{kernel}_kernel")
    return usage(compiled(function, _counts(function, constants), constants, norm_launch.OPTIONS, chip))


def _counts(function: Any, constants: dict[str, Any]) -> dict[str, str]:
    """Types of the arguments that are neither pointers to float32 nor constants."""
    names = ("N", "SIZE", "SCRATCH", "LOW", "weight_tiles", "size", "count", "n", "m", "tasks", "steps", "features")
    known = dict.fromkeys((*names, "blocks", "positions"), "i32") | {"eps": "fp32", "share": "fp32", "counters": "*i32"}
    return {
        name: known.get(name, "i32" if name.endswith("stride") or name == "stride" else "*fp32")
        for name in function.arg_names
        if name not in constants
    }


_OMNIGLOT = Conv(64, 64, 14, 14, 3, 2, 1, 0, 36864)
_IMAGENET = Conv(32, 32, 42, 42, 3, 1, 1, 0, 9216)
_BELOW = Unit(64, 14, 14, True, 0, 64, 1e-3, "relu")
_MEAN = Unit(64, 2, 2, True, 0, 64, 1e-3, "relu", "mean", 2)
_MAPS = Unit(64, 7, 7, True, 0, 64, 1e-3, "relu")
_POOLED = Unit(32, 42, 42, True, 0, 32, 1e-3, "relu", "max", 2)

ALL: tuple[Chip, ...] = (80, 90, "gfx942")
"""Kernels of single layers, which are what AMD's GPUs run, for one of those too."""

#: what the tests compile, and for which chips
TESTED: dict[str, tuple[Callable[[Chip], list[int]], tuple[Chip, ...]]] = {
    "sinusoid ieee": (lambda chip: sinusoid(25, "ieee", chip), (80, 90)),
    "sinusoid adapt": (lambda chip: other("adapt", chip), (90,)),
    "sinusoid predict": (lambda chip: other("predict", chip), (90,)),
    "sinusoid hvp": (lambda chip: other("hvp", chip), (90,)),
    "update": (lambda chip: flat_kernel("update", "reverse", chip), ALL),
    "sum": (lambda chip: flat_kernel("sum", "", chip), ALL),
    "cross entropy": (lambda chip: flat_kernel("loss", "cross_entropy", chip), ALL),
    "squared error": (lambda chip: flat_kernel("loss", "mse", chip), ALL),
    "gaussian": (lambda chip: flat_kernel("loss", "gaussian", chip), ALL),
    "omniglot forward ieee": (lambda chip: conv("forward", _OMNIGLOT, _BELOW, "ieee", chip), ALL),
    "omniglot forward tf32": (lambda chip: conv("forward", _OMNIGLOT, _BELOW, "tf32", chip), (80, 90)),
    "omniglot backward ieee": (lambda chip: conv("backward", _OMNIGLOT, _BELOW, "ieee", chip), ALL),
    "omniglot backward tf32": (lambda chip: conv("backward", _OMNIGLOT, _BELOW, "tf32", chip), (80, 90)),
    "omniglot moments": (moments, ALL),
    "omniglot moments, their end": (finish, ALL),
    "omniglot first layer backward": (first_layer, ALL),
    "omniglot head": (lambda chip: head(64, _MEAN, chip), ALL),
    "mini-imagenet head": (lambda chip: head(800, None, chip), ALL),
    "omniglot norm backward": (lambda chip: norm("backward", _MAPS, chip), ALL),
    "mini-imagenet backward ieee": (lambda chip: conv("backward", _IMAGENET, _POOLED, "ieee", chip), ALL),
    "mini-imagenet norm forward": (lambda chip: norm("forward", _POOLED, chip), ALL),
    "mini-imagenet norm tangent": (lambda chip: norm("tangent", _POOLED, chip), ALL),
    "mini-imagenet norm backward": (lambda chip: norm("backward", _POOLED, chip), ALL),
}

#: compiled by hand alone, by name, as each takes a minute
SLOW: dict[str, Callable[[Chip], list[int]]] = {
    "sinusoid of single samples": lambda chip: other("meta", chip, single=True),
    "sinusoid ieee, one warp": lambda chip: sinusoid(65536, "ieee", chip),
    "omniglot-mlp ieee": lambda chip: meta(_omniglot_mlp(), 32, 5, 5, "reverse", "ieee", chip),
    "omniglot-mlp tf32": lambda chip: meta(_omniglot_mlp(), 32, 5, 5, "reverse", "tf32", chip),
}


def _omniglot_mlp() -> Plan:
    return Plan.of(OmniglotMLP(), "cross_entropy")


def main(names: list[str]) -> None:
    found = {}
    for name, (case, chips) in TESTED.items():
        if not names or name in names:
            found |= {f"{name} {name_of(chip)}": case(chip) for chip in chips}
    for name in SLOW.keys() & set(names):
        found |= {f"{name} sm_{chip}": SLOW[name](chip) for chip in (80, 90)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
