"""The layers that a Plan is made of. Parameters are named by their slot in the flat vector."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearLayer:
    """y = x Wᵀ + b, W [out_features, in_features] in slot `weight`, b [out_features] in slot `bias`."""

    name: str
    in_features: int
    out_features: int
    weight: int
    bias: int | None


@dataclass(frozen=True)
class BatchNormLayer:
    """y = (x − mean) / sqrt(var + eps) · weight + bias; mean and biased variance over the samples of one task,
    and over all their pixels where `images` are normalised."""

    name: str
    features: int
    eps: float
    weight: int | None
    bias: int | None
    images: bool = False


@dataclass(frozen=True)
class ReLULayer:
    """y = max(x, 0), with derivative 0 at 0."""

    name: str


@dataclass(frozen=True)
class TanhLayer:
    """y = tanh(x)."""

    name: str


@dataclass(frozen=True)
class FlattenLayer:
    """[N, ...] -> [N, features]; the first layer of a Plan, or the last one on images, in front of a Linear."""

    name: str


@dataclass(frozen=True)
class AppendLayer:
    """y = [x, p]: the parameter of slot `value` [count] beside every sample's `features`; the last layer of a Plan."""

    name: str
    features: int
    count: int
    value: int


@dataclass(frozen=True)
class Conv2dLayer:
    """[N, in_channels, H, W] -> [N, out_channels, H', W'], zero padding; sizes of the window are (y, x).

    W [out_channels, in_channels, *kernel] in slot `weight`, b [out_channels] in slot `bias`.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    weight: int
    bias: int | None


@dataclass(frozen=True)
class MaxPoolLayer:
    """[N, C, H, W] -> [N, C, H', W'], the largest of each window; of equal ones the first."""

    name: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True)
class SpatialMeanLayer:
    """[N, C, H, W] -> [N, C]."""

    name: str


Layer = (
    LinearLayer
    | BatchNormLayer
    | ReLULayer
    | TanhLayer
    | FlattenLayer
    | AppendLayer
    | Conv2dLayer
    | MaxPoolLayer
    | SpatialMeanLayer
)
