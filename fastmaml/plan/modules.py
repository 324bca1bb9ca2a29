"""What each of torch's layers, and of ours, adds to the line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fastmaml.models import Append
from fastmaml.plan import pointwise
from fastmaml.plan.layers import AppendLayer, BatchNormLayer, Conv2dLayer, LinearLayer
from fastmaml.plan.line import ACCEPTED, Line
from fastmaml.plan.obstacle import Obstacle
from fastmaml.plan.windows import conv_window

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def read(line: Line, module: nn.Module, name: str) -> None:
    """Adds a module that is one layer to the line.

    Raises:
        Obstacle: it is no layer that is known, has something that is not accepted, or cannot stand here.
    """
    reader = _READERS.get(type(module))
    if reader is None:
        raise Obstacle(f"layer '{name}' ({type(module).__name__}) is not known; accepted is {ACCEPTED}")
    reader(line, module, name)


def _weight_shape(module: Any, name: str, dims: int) -> tuple[int, ...]:
    """Sizes are those of the tensors, as torch's functions take them: a module's attributes may tell of others."""
    layer = f"layer '{name}' ({type(module).__name__})"
    if module.weight is None:
        raise Obstacle(f"{layer} has no weight")
    if module.weight.dim() != dims:
        raise Obstacle(f"{layer} has a weight of shape {list(module.weight.shape)}; accepted are {dims} dimensions")
    return tuple(module.weight.shape)


def _check_vectors(module: Any, name: str, size: int, *places: str) -> None:
    for place in places:
        vector = getattr(module, place)
        if vector is not None and tuple(vector.shape) != (size,):
            raise Obstacle(
                f"layer '{name}' ({type(module).__name__}) has a {place} of shape {list(vector.shape)}, where its "
                f"other tensors make [{size}]"
            )


def _linear(line: Line, module: Any, name: str) -> None:
    line.on_rows(name, linear=True)
    outputs, inputs = _weight_shape(module, name, 2)
    line.parametric(module, name, inputs)
    _check_vectors(module, name, outputs, "bias")
    weight, bias = line.slots_of(module, name)
    line.add(LinearLayer(name, inputs=inputs, outputs=outputs, weight=weight, bias=bias))


def _batch_norm(line: Line, module: Any, name: str) -> None:
    images, kind = isinstance(module, nn.BatchNorm2d), type(module).__name__
    if images:
        line.on_images(name)
    else:
        line.on_rows(name, linear=False)
    features = module.num_features if module.weight is None else module.weight.numel()
    line.parametric(module, name, features)
    _check_vectors(module, name, features, "weight", "bias", "running_mean", "running_var")
    if not module.training and (module.running_mean is not None or module.running_var is not None):
        raise Obstacle(
            f"layer '{name}' ({kind}) is in eval mode with running statistics, and only statistics of the batch "
            "at hand are accepted: give batch_norm='batch', or call .train()"
        )
    weight, bias = line.slots_of(module, name)
    constants = (float(module.eps),)
    line.add(BatchNormLayer(name, inputs=features, constants=constants, on_images=images, weight=weight, bias=bias))


def _conv(line: Line, module: Any, name: str) -> None:
    line.on_images(name)
    outputs, inputs, *_ = _weight_shape(module, name, 4)
    kernel, stride, padding = conv_window(module, name)
    line.parametric(module, name, inputs)
    _check_vectors(module, name, outputs, "bias")
    weight, bias = line.slots_of(module, name)
    line.add(
        Conv2dLayer(
            name, inputs=inputs, outputs=outputs, on_images=True, kernel=kernel, stride=stride, padding=padding,
            weight=weight, bias=bias,
        )
    )  # fmt: skip


def _max_pool(line: Line, module: Any, name: str) -> None:
    arguments = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    line.max_pool(name, *(getattr(module, argument) for argument in arguments))


def _average_pool(line: Line, module: Any, name: str) -> None:
    line.average_pool(name, module.output_size)


def _flatten(line: Line, module: Any, name: str) -> None:
    line.flatten_dims(name, module.start_dim, module.end_dim)


def _dropout(line: Line, module: Any, name: str) -> None:
    if module.training and module.p > 0:
        raise Obstacle(
            f"layer '{name}' ({type(module).__name__}) draws random numbers; accepted is p=0 or eval mode: call .eval()"
        )


def _pointwise(line: Line, module: nn.Module, name: str) -> None:
    line.pointwise(pointwise.of_module(module, name))


def _identity(line: Line, module: Any, name: str) -> None:
    return


def _append(line: Line, module: Append, name: str) -> None:
    line.on_rows(name, linear=False)
    if line.features is None:
        raise Obstacle(f"layer '{name}' (Append) stands first; a Linear must come before it")
    line.parametric(module, name, line.features)
    outputs = line.features + module.value.numel()
    line.add(AppendLayer(name, inputs=line.features, outputs=outputs, bias=line.slot(module.value, name)))


_READERS: dict[type, Callable[[Line, Any, str], None]] = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _conv,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _average_pool,
    nn.Flatten: _flatten,
    nn.Identity: _identity,
    Append: _append,
    **dict.fromkeys(_DROPOUTS, _dropout),
    **dict.fromkeys(pointwise.MODULES, _pointwise),
}
