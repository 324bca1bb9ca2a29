"""The layers that a Plan is made of. Each answers for itself: what it takes and gives, and where its parameters are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

Shape = tuple[int, ...]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """One layer, by what engines ask of any.

    kind: its name in the engines.
    name: that of the module, or of the call, that it was read off.
    inputs: features or channels that it takes; 0 if it takes any number.
    outputs: features or channels that it gives; 0 if as many as it takes.
    weight, bias: slots of its parameters in the flat vector; -1 for none.
    constants: numbers of its formula.
    on_images: whether it takes samples [channels, H, W] alone.
    kernel, stride, padding: of its windows on images, (y, x).
    """

    kind: ClassVar[str]
    name: str
    _: KW_ONLY
    inputs: int = 0
    outputs: int = 0
    weight: int = -1
    bias: int = -1
    constants: tuple[float, ...] = ()
    on_images: bool = False
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    def shape_after(self, sample: Shape) -> Shape:
        """The shape of one sample after the layer: [channels, H, W] of an image, else [features].

        Raises:
            ValueError: the layer cannot take the sample; the message names the layer and says what it takes.
        """
        if self.on_images:
            fits, wanted = len(sample) == 3, f"[{self.inputs or 'channels'}, H, W]"
        else:
            fits, wanted = not self.inputs or len(sample) == 1, f"[{self.inputs}]"
        self._check(fits and (not self.inputs or sample[0] == self.inputs), sample, wanted)
        return (self.outputs, *sample[1:]) if self.outputs else sample

    def _check(self, fits: bool, sample: Shape, wanted: str) -> None:
        if not fits:
            raise ValueError(f"layer '{self.name}' takes {wanted} a sample, and {list(sample)} reaches it")


class LinearLayer(Layer):
    """y = x Wᵀ + b, W [outputs, inputs] in slot `weight`, b [outputs] in slot `bias`."""

    kind = "linear"


class BatchNormLayer(Layer):
    """y = (x − mean) / sqrt(var + eps) · weight + bias, constants (eps,); mean and biased variance over the samples of
    one task, and over all their pixels if images are normalised."""

    kind = "batch_norm"


@dataclass(frozen=True)
class PointwiseLayer(Layer):
    """y = f(x), element by element; `fastmaml.plan.pointwise.FUNCTIONS` names f and its constants."""

    kind: str  # type: ignore[misc]  # one class for all of them


class FlattenLayer(Layer):
    """[N, ...] -> [N, features]; the first layer of a Plan, or the last one on images, in front of a Linear."""

    kind = "flatten"

    def shape_after(self, sample: Shape) -> Shape:
        return (math.prod(sample),)


class AppendLayer(Layer):
    """y = [x, p]: the parameter of slot `bias` [outputs − inputs] beside every sample's features; the last layer."""

    kind = "append"


class _Windows(Layer):
    def shape_after(self, sample: Shape) -> Shape:
        channels = super().shape_after(sample)[0]
        sizes = zip(sample[1:], self.kernel, self.stride, self.padding, strict=True)
        down, across = ((size + 2 * pad - kernel) // stride + 1 for size, kernel, stride, pad in sizes)
        self._check(down >= 1 and across >= 1, sample, f"images of at least {self.kernel[0]}×{self.kernel[1]} pixels")
        return channels, down, across


class Conv2dLayer(_Windows):
    """[N, inputs, H, W] -> [N, outputs, H', W'], zero padding; W [outputs, inputs, *kernel] in slot `weight`,
    b [outputs] in slot `bias`."""

    kind = "conv"


class MaxPoolLayer(_Windows):
    """[N, C, H, W] -> [N, C, H', W'], the largest of each window; of equal ones the first."""

    kind = "max_pool"


class SpatialMeanLayer(Layer):
    """[N, C, H, W] -> [N, C]."""

    kind = "spatial_mean"

    def shape_after(self, sample: Shape) -> Shape:
        return super().shape_after(sample)[:1]


def sample_shapes(layers: Sequence[Layer], sample: Shape) -> list[Shape]:
    """The shape of one sample before each layer and after the last.

    Raises:
        ValueError: a layer cannot take what reaches it.
    """
    shapes = [tuple(sample)]
    for layer in layers:
        shapes.append(layer.shape_after(shapes[-1]))
    return shapes
