"""A network as layers with shapes, and how it is read off an nn.Module."""

from fastmaml.plan.layers import (
    AppendLayer,
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPoolLayer,
    PointwiseLayer,
    SpatialMeanLayer,
)
from fastmaml.plan.plan import InnerLr, ParameterSlot, Plan, matching

__all__ = [
    "AppendLayer",
    "BatchNormLayer",
    "Conv2dLayer",
    "FlattenLayer",
    "InnerLr",
    "Layer",
    "LinearLayer",
    "MaxPoolLayer",
    "ParameterSlot",
    "Plan",
    "PointwiseLayer",
    "SpatialMeanLayer",
    "matching",
]
