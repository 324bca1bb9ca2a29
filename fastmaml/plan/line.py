"""The straight line of layers that has been read so far, and what may follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fastmaml.plan import pointwise
from fastmaml.plan.layers import AppendLayer, FlattenLayer, Layer, MaxPoolLayer, PointwiseLayer, SpatialMeanLayer
from fastmaml.plan.obstacle import Obstacle
from fastmaml.plan.windows import pool_window

ACCEPTED = (
    f"a straight line of Linear, BatchNorm1d, {', '.join(kind.__name__ for kind in pointwise.MODULES)} and Flatten, "
    "after Conv2d, BatchNorm2d, MaxPool2d and the mean over all pixels, and fastmaml.models.Append at the end"
)


class Line:
    """The layers so far, and what leaves the last one.

    features: how many, channels of images among them (None: as many as the input has, or as a flattened image).
    form: "images", "means" (images of one pixel, or its channels), "flat" (flattened images), "rows"; None: any.
    """

    def __init__(self, slots: Mapping[int, int]) -> None:
        self.slots = slots
        self.layers: list[Layer] = []
        self.flatten: FlattenLayer | None = None
        self.features: int | None = None
        self.form: str | None = None
        self.flattening: str | None = None  # name of what flattened the images
        self.called: set[int] = set()

    def slot(self, parameter: Any, name: str) -> int:
        if parameter is None:
            return -1
        if id(parameter) not in self.slots:
            raise Obstacle(f"layer '{name}' computes with a tensor that is not one of the model's parameters")
        return self.slots[id(parameter)]

    def slots_of(self, module: Any, name: str) -> tuple[int, int]:
        return self.slot(module.weight, name), self.slot(module.bias, name)

    def parametric(self, module: nn.Module, name: str, features: int) -> None:
        if id(module) in self.called:
            raise Obstacle(f"layer '{name}' is called twice; each layer with parameters may be called once")
        if features < 1 or self.features not in (None, features):
            raise Obstacle(f"layer '{name}' takes {features} features, but {self.features} reach it")
        self.called.add(id(module))

    def add(self, layer: Layer) -> None:
        """A layer with parameters."""
        self.layers.append(layer)
        self.features = layer.outputs or layer.inputs

    def goes_on(self, name: str) -> None:
        """Nothing follows appended parameters."""
        if self.layers and isinstance(self.layers[-1], AppendLayer):
            raise Obstacle(f"layer '{name}' follows '{self.layers[-1].name}' (Append), which must be the last layer")

    def on_images(self, name: str) -> None:
        self.goes_on(name)
        if self.form not in (None, "images") or self.flatten is not None:
            raise Obstacle(f"layer '{name}' takes images, but rows of features reach it; accepted is {ACCEPTED}")
        self.form = "images"

    def on_rows(self, name: str, linear: bool) -> None:
        """Of what is left of images after flattening, or after the mean of their pixels, only a Linear is made."""
        self.goes_on(name)
        if self.form == "images" or (self.form in ("means", "flat") and not linear):
            given = {"images": "images", "flat": "flattened images"}.get(self.form, "means over pixels")
            raise Obstacle(f"layer '{name}' takes rows of features, but {given} reach it; accepted is {ACCEPTED}")
        if self.flattening is not None:
            self.layers.append(FlattenLayer(self.flattening))
            self.flattening = None
        self.form = "rows"

    def mean(self, name: str) -> None:
        self.on_images(name)
        self.layers.append(SpatialMeanLayer(name, on_images=True))
        self.form = "means"

    def max_pool(self, name: str, *arguments: Any, **named: Any) -> None:
        """The arguments are those of F.max_pool2d."""
        self.on_images(name)
        kernel, stride, padding = pool_window(name, *arguments, **named)
        self.layers.append(MaxPoolLayer(name, on_images=True, kernel=kernel, stride=stride, padding=padding))

    def average_pool(self, name: str, output_size: Any) -> None:
        if output_size not in (1, (1, 1), [1, 1]):
            raise Obstacle(
                f"layer '{name}' pools to {output_size}; accepted is the mean over all pixels, output size 1"
            )
        self.mean(name)

    def pointwise(self, layer: PointwiseLayer) -> None:
        """It commutes with flattening, which is left to the Linear that follows."""
        self.goes_on(layer.name)
        function = pointwise.FUNCTIONS[layer.kind]
        if self.form == "means" and not function.piecewise:
            raise Obstacle(
                f"layer '{layer.name}' ({function.module.__name__}) follows a mean over pixels; accepted is {ACCEPTED}"
            )
        self.layers.append(layer)

    def flatten_dims(self, name: str, start_dim: int = 0, end_dim: int = -1) -> None:
        if start_dim != 1 or end_dim != -1:
            raise Obstacle(f"'{name}' flattens dimensions {start_dim} to {end_dim}; accepted is 1 to -1")
        self.flattened(name)

    def flattened(self, name: str, features: int | None = None) -> None:
        """Flattening commutes with what may stand before the first Linear, and after it does nothing."""
        if self.form == "images":
            self.form, self.flattening, self.features = "flat", name, features
        elif self.form == "means" and self.features is None:  # of images with as many channels as they have
            self.features = features
        elif self.features is None:
            self.flatten, self.features = self.flatten or FlattenLayer(name), features
        elif features not in (None, self.features):
            raise Obstacle(f"'{name}' regroups {self.features} features into rows of {features}")

    def finish(self, module: nn.Module) -> tuple[Layer, ...]:
        if self.form in ("images", "flat"):
            raise Obstacle("the network ends in images; accepted at the end is a Linear, or the mean over all pixels")
        used = {slot for layer in self.layers for slot in (layer.weight, layer.bias)}
        for name, parameter in module.named_parameters():
            if self.slots[id(parameter)] not in used:
                raise Obstacle(f"parameter '{name}' has no part in the forward pass; remove it")
        return (*([self.flatten] if self.flatten else []), *self.layers)
