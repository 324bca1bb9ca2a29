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
    """y = (x − mean) / sqrt(var + eps) · weight + bias; mean and biased variance over the samples of one task."""

    name: str
    features: int
    eps: float
    weight: int | None
    bias: int | None


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
    """[N, ...] -> [N, features]; only ever the first layer of a Plan."""

    name: str


@dataclass(frozen=True)
class AppendLayer:
    """y = [x, p]: the parameter of slot `value` [count] beside every sample's `features`."""

    name: str
    features: int
    count: int
    value: int


Layer = LinearLayer | BatchNormLayer | ReLULayer | TanhLayer | FlattenLayer | AppendLayer
