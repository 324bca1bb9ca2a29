"""Operations and bytes of one pass of the C++ core over one of its layers, from the layer's shape.

Operations are products that meet a pixel of the image, as in bench.operations. Bytes are the least that a pass moves:
each map of activations as often as it is read or written from one end to the other, channels padded as they lie in
memory, and the weights once a call. What stays in a cache costs less: a pass may come out above the memory's rate.
Batch norms are taken to find x-hat from their outputs; where a scale or shift is too far from one or zero for that,
the chosen inputs are kept as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.operations import taps_inside

PAD = 16  # float32 numbers in 64 bytes
NUMBER = 4  # bytes

Counts = Mapping[str, tuple[int, int]]

_PRODUCTS: Counts = {
    "forward": (1, 1),
    "gradient": (1, 1),
    "backward": (1, 1),
    "tangent forward": (2, 1),
    "tangent gradient": (2, 2),
    "tangent backward": (1, 2),
}
_NORM: Counts = {
    "forward": (2, 1),  # statistics; then z again, and y
    "sums": (0, 2),  # where no convolution has taken them on its way
    "backward": (2, 1),
    "tangent forward": (3, 3),  # statistics of z and of its tangent; then the tangent again, y, its adjoint and tangent
    "tangent sums": (0, 2),
    "tangent backward": (4, 2),
}
_POOLED_NORM: Counts = {
    **_NORM,
    "forward": (2, 2),  # which input was chosen
    "backward": (2, 2),
    "tangent forward": (3, 4),
    "tangent backward": (4, 3),
}
_STEM: Counts = {  # the convolution's output is never kept
    "forward": (1, 1),
    "gradient": (1, 1),
    "tangent forward": (1, 3),
    "tangent gradient": (1, 2),
}
_POOLED_STEM: Counts = {  # which of its window was the largest
    "forward": (1, 2),
    "gradient": (1, 2),
    "tangent forward": (1, 4),
    "tangent gradient": (1, 3),
}
_POINTWISE: Counts = {
    "forward": (1, 1),
    "backward": (1, 1),
    "tangent forward": (1, 2),
    "tangent backward": (1, 2),
}
_POOL: Counts = {"forward": (1, 2), "backward": (2, 2), "tangent forward": (1, 3), "tangent backward": (2, 2)}
_MAPS: Mapping[str, Counts] = {"conv": _PRODUCTS, "linear": _PRODUCTS, "batch_norm": _NORM, "max_pool": _POOL}
"""By kind and pass: how many maps of the input's size and of the output's size are read or written."""

_PAIRS = ("tangent forward", "tangent gradient", "tangent backward")
"""Passes of two products, of which the first layer, whose input has no tangent, takes one."""


def joined(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers, where a convolution and a batch norm are made as one: the first with the size of what that gives."""
    if len(layers) < 2 or not layers[0]["stem"]:
        return layers
    conv, norm = layers[:2]
    gives = {"relu": norm["relu"], "pool": norm["pool"], "given_size": norm["out_size"]}
    return [{**conv, **gives}, *layers[1:]]


def name_of(layer: Mapping[str, Any]) -> str:
    """What it is, other layers fused into it included: "conv 32→32 42×42"."""
    fused = ["batch norm"] if "given_size" in layer else []
    fused += [name for name in ("relu", "pool") if layer[name]]
    shape = f"{layer['inputs']}→{layer['outputs']}"
    size = "×".join(map(str, layer["in_size"])) if layer["image"] else ""
    return " ".join([" + ".join([layer["kind"], *fused]).replace("_", " "), shape, size]).strip()


def operations(pass_name: str, layer: Mapping[str, Any], first: bool, samples: int) -> int:
    """Floating-point operations of products: two for each weight that meets an input."""
    if layer["kind"] not in ("conv", "linear") or pass_name not in _PRODUCTS:
        return 0
    products = 2 if pass_name in _PAIRS and not first else 1
    return 2 * products * _multiply_adds(layer) * samples


def bytes_moved(pass_name: str, layer: Mapping[str, Any], first: bool, calls: int, samples: int) -> int:
    """The least that is read and written, weights in each call and maps of each sample."""
    inputs, outputs = _counts(pass_name, layer, first)
    maps = inputs * _map(layer, layer["inputs"], layer["in_size"], dense=first) + outputs * _map(
        layer, layer["outputs"], layer.get("given_size", layer["out_size"])
    )
    weights = _weights(layer) * (2 if pass_name in _PAIRS and not first else 1)
    return NUMBER * (maps * samples + weights * calls)


def _counts(pass_name: str, layer: Mapping[str, Any], first: bool) -> tuple[int, int]:
    """Maps of the input's size and of the output's size."""
    if "given_size" in layer:
        counts = _POOLED_STEM if layer["pool"] else _STEM
    elif first and pass_name in _PAIRS:  # one product: its input, and the tangent or adjoint of its output
        return 1, 1
    else:
        counts = _POOLED_NORM if layer["pool"] else _MAPS.get(layer["kind"], _POINTWISE)
    return counts.get(pass_name, (0, 0))


def _multiply_adds(layer: Mapping[str, Any]) -> int:
    """Of one product with the weights, for one sample."""
    met = 1
    if layer["kind"] == "conv":
        window = zip(layer["kernel"], layer["stride"], layer["padding"], strict=True)
        sizes = zip(layer["in_size"], layer["out_size"], strict=True)
        met = math.prod(taps_inside(*w, *s) for w, s in zip(window, sizes, strict=True))
    return int(met * layer["inputs"] * layer["outputs"])


def _map(layer: Mapping[str, Any], channels: int, size: tuple[int, int], dense: bool = False) -> int:
    pixels = math.prod(size) if layer["image"] else 1
    return pixels * (channels if dense else _padded(channels))


def _weights(layer: Mapping[str, Any]) -> int:
    if layer["kind"] not in ("conv", "linear"):
        return 0
    return int(layer["inputs"] * math.prod(layer["kernel"]) * _padded(layer["outputs"]))


def _padded(channels: int) -> int:
    return -(-channels // PAD) * PAD
