"""A Plan as the compiled core takes it: a tuple for each layer, and the geometry of those on images."""

from __future__ import annotations

from fastmaml import _core
from fastmaml.plan import Plan
from fastmaml.plan.layers import (
    AppendLayer,
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPoolLayer,
    SpatialMeanLayer,
    TanhLayer,
)
from fastmaml.plan.shapes import Shape, sample_shapes


def core_model(plan: Plan, sample: Shape | None) -> _core.Model:
    """The model of the plan's layers.

    Args:
        sample: [channels, H, W] of one sample where the plan takes images, else None.
    """
    layers = [layer for layer in plan.layers or () if not isinstance(layer, FlattenLayer)]
    offsets = {None: -1} | {index: slot.offset for index, slot in enumerate(plan.slots)}
    if sample is None:
        sample = (plan.num_inputs or 0,)
    shapes = sample_shapes(plan.layers or (), sample)
    pairs = [
        (before, after)
        for layer, before, after in zip(plan.layers or (), shapes, shapes[1:], strict=False)
        if not isinstance(layer, FlattenLayer)
    ]
    tuples = [_tuple(layer, *pair, offsets) for layer, pair in zip(layers, pairs, strict=True)]
    geometry = [_geometry(layer, *pair) for layer, pair in zip(layers, pairs, strict=True)]
    return _core.Model(tuples, plan.loss_name, plan.sizes, geometry)


def _tuple(
    layer: Layer, before: Shape, after: Shape, offsets: dict[int | None, int]
) -> tuple[str, int, int, int, int, float]:
    """(kind, in, out, weight offset, bias offset, eps)."""
    if isinstance(layer, (LinearLayer, Conv2dLayer)):
        kind = "linear" if isinstance(layer, LinearLayer) else "conv"
        return kind, before[0], after[0], offsets[layer.weight], offsets[layer.bias], 0.0
    if isinstance(layer, BatchNormLayer):
        return "batch_norm", before[0], after[0], offsets[layer.weight], offsets[layer.bias], layer.eps
    if isinstance(layer, AppendLayer):
        return "append", before[0], after[0], -1, offsets[layer.value], 0.0
    kinds = {MaxPoolLayer: "max_pool", SpatialMeanLayer: "spatial_mean", TanhLayer: "tanh"}
    return kinds.get(type(layer), "relu"), before[0], after[0], -1, -1, 0.0


def _geometry(layer: Layer, before: Shape, after: Shape) -> list[int]:
    """Size in, size out, kernel, stride and padding, each y then x; nothing of a layer on rows."""
    if len(before) != 3:
        return []
    window = [1, 1, 1, 1, 0, 0]
    if isinstance(layer, (Conv2dLayer, MaxPoolLayer)):
        window = [*layer.kernel, *layer.stride, *layer.padding]
    return [*before[1:], *(after[1:] or (1, 1)), *window]
