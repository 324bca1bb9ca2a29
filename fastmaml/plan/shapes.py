"""The shape of one sample on its way through the layers of a Plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastmaml.plan.layers import (
    AppendLayer,
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPoolLayer,
    SpatialMeanLayer,
)

Shape = tuple[int, ...]


def takes_images(layers: Sequence[Layer]) -> bool:
    """Whether the layers take samples [channels, H, W]."""
    return any(
        isinstance(layer, (Conv2dLayer, MaxPoolLayer, SpatialMeanLayer))
        or (isinstance(layer, BatchNormLayer) and layer.images)
        for layer in layers
    )


def sample_shapes(layers: Sequence[Layer], sample: Shape) -> list[Shape]:
    """The shape of one sample before each layer and after the last: [channels, H, W] of an image, else [features].

    Raises:
        ValueError: a layer cannot take what reaches it; the message names the layer and says what it takes.
    """
    shapes = [tuple(sample)]
    for layer in layers:
        shapes.append(_after(layer, shapes[-1]))
    return shapes


def _after(layer: Layer, shape: Shape) -> Shape:
    if isinstance(layer, FlattenLayer):
        return (math.prod(shape),)
    if isinstance(layer, LinearLayer):
        _check(layer, shape == (layer.in_features,), shape, f"[{layer.in_features}]")
        return (layer.out_features,)
    if isinstance(layer, AppendLayer):
        _check(layer, shape == (layer.features,), shape, f"[{layer.features}]")
        return (layer.features + layer.count,)
    if isinstance(layer, BatchNormLayer):
        dims = 3 if layer.images else 1
        expected = f"[{layer.features}, H, W]" if layer.images else f"[{layer.features}]"
        _check(layer, len(shape) == dims and shape[0] == layer.features, shape, expected)
        return shape
    if isinstance(layer, Conv2dLayer):
        _check(layer, len(shape) == 3 and shape[0] == layer.in_channels, shape, f"[{layer.in_channels}, H, W]")
        return (layer.out_channels, *_windows(layer, shape))
    if isinstance(layer, MaxPoolLayer):
        _check(layer, len(shape) == 3, shape, "[channels, H, W]")
        return (shape[0], *_windows(layer, shape))
    if isinstance(layer, SpatialMeanLayer):
        _check(layer, len(shape) == 3, shape, "[channels, H, W]")
        return shape[:1]
    return shape


def _windows(layer: Conv2dLayer | MaxPoolLayer, shape: Shape) -> tuple[int, int]:
    """How many windows fit, down and across."""
    down, across = (
        (size + 2 * pad - kernel) // stride + 1
        for size, kernel, stride, pad in zip(shape[1:], layer.kernel, layer.stride, layer.padding, strict=True)
    )
    _check(layer, down >= 1 and across >= 1, shape, f"images of at least {layer.kernel[0]}×{layer.kernel[1]} pixels")
    return down, across


def _check(layer: Layer, fits: bool, shape: Shape, expected: str) -> None:
    if not fits:
        raise ValueError(f"layer '{layer.name}' takes {expected} a sample, and {list(shape)} reaches it")
