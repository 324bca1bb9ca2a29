"""A Plan as the stages of the layered kernels: a convolution or linear layer, and what follows it."""

from __future__ import annotations

from dataclasses import replace

from fastmaml.kernels.conv_launch import Conv
from fastmaml.kernels.norm_launch import Unit
from fastmaml.kernels.stages import Stage
from fastmaml.plan import (
    AppendLayer,
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPoolLayer,
    Plan,
    SpatialMeanLayer,
)

MAX_MEAN = 8
"""Widest map that a spatial mean is taken of."""

_ORDER = "each Conv2d or Linear may be followed by one batch norm, one ReLU or Tanh and one pooling, in this order"


def layers_obstacle(plan: Plan) -> str | None:
    """Why the layers are no line of stages, whatever the size of the images; None where they are."""
    after_linear = False
    place = 4  # how far the present stage is: 1 norm, 2 activation, 3 pooling may follow; 4 none may, for lack of one
    for layer in plan.layers or ():
        if isinstance(layer, AppendLayer):
            if not after_linear:
                return f"layer '{layer.name}' (Append) does not follow a Linear, which its kernels append to"
            continue
        after_linear = isinstance(layer, LinearLayer)
        rank = _rank(layer)
        if rank == 0:
            place = 0
        elif rank is not None and rank <= place:
            return f"layer '{layer.name}' is out of order: {_ORDER}"
        elif rank is not None:
            place = rank
        if (problem := _window_obstacle(layer)) is not None:
            return problem
    return None if plan.num_outputs is not None else "the network has no layer with parameters"


def stages_of(plan: Plan, sample: tuple[int, ...]) -> tuple[Stage, ...]:
    """The stages for samples of this shape, [channels, H, W] or [features].

    Raises:
        RuntimeError: where the kernels do not take maps of such a size.
    """
    offsets = [*(slot.offset for slot in plan.slots), -1]  # -1, no slot, finds the last
    maps = sample if len(sample) == 3 else (0, 1, 1)  # channels, height, width
    stages: list[Stage] = []
    for layer in plan.layers or ():
        if isinstance(layer, (Conv2dLayer, LinearLayer)):
            conv = _conv(layer, maps, offsets)
            maps = (conv.outputs, conv.out_height, conv.out_width)
            stages.append(Stage(conv))
        elif isinstance(layer, AppendLayer):
            conv = stages[-1].conv
            longer = replace(
                conv, outputs=layer.outputs, appended=layer.outputs - conv.outputs, append=offsets[layer.bias]
            )
            stages[-1] = Stage(longer)
        elif not isinstance(layer, FlattenLayer):
            unit = _with(stages[-1].unit or Unit(*maps), layer, offsets)
            maps = (maps[0], unit.height // unit.window, unit.width // unit.window)
            stages[-1] = Stage(stages[-1].conv, unit)
    return tuple(stages)


def _rank(layer: Layer) -> int | None:
    if isinstance(layer, (Conv2dLayer, LinearLayer)):
        return 0
    if isinstance(layer, FlattenLayer):
        return None
    if isinstance(layer, BatchNormLayer):
        return 1
    return 3 if isinstance(layer, (MaxPoolLayer, SpatialMeanLayer)) else 2


def _window_obstacle(layer: Layer) -> str | None:
    if isinstance(layer, Conv2dLayer):
        windows = (layer.kernel, layer.stride, layer.padding)
        if any(down != across for down, across in windows):
            return f"layer '{layer.name}' (Conv2d) has a window that is not square; it takes square ones"
    if isinstance(layer, MaxPoolLayer) and not (
        layer.kernel == layer.stride == (layer.kernel[0],) * 2 and layer.padding == (0, 0)
    ):
        return f"layer '{layer.name}' (MaxPool2d) has overlapping, padded or oblong windows; it takes plain square ones"
    return None


def _conv(layer: Conv2dLayer | LinearLayer, maps: tuple[int, ...], offsets: list[int]) -> Conv:
    places = (offsets[layer.weight], offsets[layer.bias])
    if isinstance(layer, LinearLayer):
        return Conv(layer.inputs, layer.outputs, 1, 1, 1, 1, 0, *places)
    window = (layer.kernel[0], layer.stride[0], layer.padding[0])
    return Conv(layer.inputs, layer.outputs, maps[1], maps[2], *window, *places)


def _with(unit: Unit, layer: Layer, offsets: list[int]) -> Unit:
    if isinstance(layer, BatchNormLayer):
        scale, shift = offsets[layer.weight], offsets[layer.bias]
        return replace(unit, norm=True, scale=scale, shift=shift, eps=layer.constants[0])
    if isinstance(layer, MaxPoolLayer):
        return replace(unit, window=layer.kernel[0])
    if isinstance(layer, SpatialMeanLayer):
        if unit.height != unit.width or unit.width > MAX_MEAN:
            raise RuntimeError(
                f"layer '{layer.name}' takes the mean of {unit.height}×{unit.width} maps; the GPU kernels take square "
                f"ones up to {MAX_MEAN}×{MAX_MEAN}"
            )
        return replace(unit, pool="mean", window=unit.width)
    return replace(unit, activation=layer.kind)
