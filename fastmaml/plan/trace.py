"""nn.Module -> the straight line of layers that it is, or the reason why it is none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrize

from fastmaml.models import Append
from fastmaml.plan.layers import (
    AppendLayer,
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPoolLayer,
    ReLULayer,
    SpatialMeanLayer,
    TanhLayer,
)
from fastmaml.plan.symbolic import symbolic_trace
from fastmaml.plan.windows import ACCEPTED, Obstacle, conv_window, is_spatial_mean, pool_window

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_LEAVES = (
    *(nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Tanh, nn.Flatten, nn.Identity, Append, *_DROPOUTS),
    *(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{kind}" for kind in _HOOKS)
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_TANH = (F.tanh, torch.tanh, torch.tanh_, "tanh", "tanh_")
_FLATTEN = (torch.flatten, "flatten")
_RESHAPE = (torch.reshape, "reshape", "view")
_MEAN = (torch.mean, "mean")


def trace(module: nn.Module, slots: Mapping[int, int]) -> tuple[Layer, ...]:
    """The layers of `module` in its present mode.

    Args:
        module: the network.
        slots: id(parameter) -> its slot.
    Raises:
        Obstacle: where the module is anything else than `ACCEPTED`.
    """
    _check_parameters(module)
    _check_hooks(module)
    line = _Line(slots)
    if _is_leaf(module):
        line.call(module, "model")
    else:
        _walk(module, line)
    return line.finish(module)


def _check_parameters(module: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = seen.setdefault(id(parameter), name)
        if first != name:
            raise Obstacle(f"parameter '{name}' is shared with '{first}'; each parameter may have one place only")
    named = list(module.named_parameters())
    for name, parameter in named:
        if parameter.dtype != named[0][1].dtype:
            raise Obstacle(
                f"parameters differ in dtype ('{named[0][0]}' is {named[0][1].dtype}, '{name}' is {parameter.dtype}); "
                "all must have one: call .float() or .double()"
            )


def _check_hooks(module: nn.Module) -> None:
    if any(getattr(nn_module, hooks, None) for hooks in _GLOBAL_HOOKS):
        raise Obstacle("torch.nn.modules.module has hooks for all modules, which only Python can run; remove them")
    for name, child in module.named_modules():
        if parametrize.is_parametrized(child):
            raise Obstacle(f"layer '{name}' has a parametrization; remove it (remove_parametrizations)")
        if any(getattr(child, hooks, None) for hooks in _HOOKS):
            raise Obstacle(f"layer '{name}' ({type(child).__name__}) has hooks, which only Python can run; remove them")
        if "forward" in vars(child):
            raise Obstacle(f"layer '{name}' ({type(child).__name__}) has a forward of its own, set on the instance")


def _is_leaf(module: nn.Module) -> bool:
    """Whether it is one of torch's own layers, or ours; containers are followed."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    return isinstance(module, Append) or type(module).__module__.startswith(("torch.nn.", "torch.ao.nn."))


def _walk(module: nn.Module, line: _Line) -> None:
    try:
        graph = symbolic_trace(module, _is_leaf)
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        reason = str(error).split("\n", 1)[0]
        raise Obstacle(f"torch.fx cannot trace {type(module).__name__} ({reason}); accepted is {ACCEPTED}") from error
    walker = _Walker(line, dict(module.named_modules()))
    for node in graph.nodes:
        walker.visit(node)


class _Line:
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

    def call(self, module: nn.Module, name: str) -> None:
        handler = _HANDLERS.get(type(module))
        if handler is None:
            raise Obstacle(f"layer '{name}' ({type(module).__name__}) is not known; accepted is {ACCEPTED}")
        handler(self, module, name)

    def slot(self, parameter: Any, name: str) -> int | None:
        if parameter is None:
            return None
        if id(parameter) not in self.slots:
            raise Obstacle(f"layer '{name}' computes with a tensor that is not one of the model's parameters")
        return self.slots[id(parameter)]

    def parametric(self, module: nn.Module, name: str, features: int) -> None:
        if id(module) in self.called:
            raise Obstacle(f"layer '{name}' is called twice; each layer with parameters may be called once")
        if features < 1 or self.features not in (None, features):
            raise Obstacle(f"layer '{name}' takes {features} features, but {self.features} reach it")
        self.called.add(id(module))

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
        self.layers.append(SpatialMeanLayer(name))
        self.form = "means"

    def elementwise(self, layer: Layer) -> None:
        """It commutes with flattening, which is left to the Linear that follows."""
        self.goes_on(layer.name)
        if self.form == "means" and isinstance(layer, TanhLayer):
            raise Obstacle(f"layer '{layer.name}' (Tanh) follows a mean over pixels; accepted is {ACCEPTED}")
        self.layers.append(layer)

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
        places = ("weight", "bias", "value")
        used = {getattr(layer, place, None) for layer in self.layers for place in places}
        for name, parameter in module.named_parameters():
            if self.slots[id(parameter)] not in used:
                raise Obstacle(f"parameter '{name}' has no part in the forward pass; remove it")
        return (*([self.flatten] if self.flatten else []), *self.layers)


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


def _linear(line: _Line, module: Any, name: str) -> None:
    line.on_rows(name, linear=True)
    outputs, inputs = _weight_shape(module, name, 2)
    line.parametric(module, name, inputs)
    weight, bias = line.slot(module.weight, name), line.slot(module.bias, name)
    assert weight is not None
    _check_vectors(module, name, outputs, "bias")
    line.layers.append(LinearLayer(name, inputs, outputs, weight, bias))
    line.features = outputs


def _batch_norm(line: _Line, module: Any, name: str) -> None:
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
    weight, bias = line.slot(module.weight, name), line.slot(module.bias, name)
    line.layers.append(BatchNormLayer(name, features, float(module.eps), weight, bias, images))
    line.features = features


def _conv(line: _Line, module: Any, name: str) -> None:
    line.on_images(name)
    outputs, inputs, *_ = _weight_shape(module, name, 4)
    window = conv_window(module, name)
    line.parametric(module, name, inputs)
    weight, bias = line.slot(module.weight, name), line.slot(module.bias, name)
    assert weight is not None
    _check_vectors(module, name, outputs, "bias")
    line.layers.append(Conv2dLayer(name, inputs, outputs, *window, weight, bias))
    line.features = outputs


def _max_pool(line: _Line, module: Any, name: str) -> None:
    _max_pool_by(
        line, name, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode,
        module.return_indices,
    )  # fmt: skip


def _max_pool_by(line: _Line, name: str, *arguments: Any, **named: Any) -> None:
    line.on_images(name)
    line.layers.append(MaxPoolLayer(name, *pool_window(name, *arguments, **named)))


def _average_pool(line: _Line, module: Any, name: str) -> None:
    _average_pool_by(line, name, module.output_size)


def _average_pool_by(line: _Line, name: str, output_size: Any) -> None:
    if output_size not in (1, (1, 1), [1, 1]):
        raise Obstacle(f"layer '{name}' pools to {output_size}; accepted is the mean over all pixels, output size 1")
    line.mean(name)


def _flatten(line: _Line, module: Any, name: str) -> None:
    _flatten_dims(line, name, module.start_dim, module.end_dim)


def _flatten_dims(line: _Line, name: str, start_dim: int = 0, end_dim: int = -1) -> None:
    if start_dim != 1 or end_dim != -1:
        raise Obstacle(f"'{name}' flattens dimensions {start_dim} to {end_dim}; accepted is 1 to -1")
    line.flattened(name)


def _dropout(line: _Line, module: Any, name: str) -> None:
    if module.training and module.p > 0:
        raise Obstacle(
            f"layer '{name}' ({type(module).__name__}) draws random numbers; accepted is p=0 or eval mode: call .eval()"
        )


def _relu(line: _Line, module: Any, name: str) -> None:
    line.elementwise(ReLULayer(name))


def _tanh(line: _Line, module: Any, name: str) -> None:
    line.elementwise(TanhLayer(name))


def _identity(line: _Line, module: Any, name: str) -> None:
    return


def _append(line: _Line, module: Append, name: str) -> None:
    line.on_rows(name, linear=False)
    if line.features is None:
        raise Obstacle(f"layer '{name}' (Append) stands first; a Linear must come before it")
    line.parametric(module, name, line.features)
    slot = line.slot(module.value, name)
    assert slot is not None
    line.layers.append(AppendLayer(name, line.features, module.value.numel(), slot))
    line.features += module.value.numel()


_HANDLERS: dict[type, Callable[[_Line, Any, str], None]] = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Conv2d: _conv,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool2d: _average_pool,
    nn.Flatten: _flatten,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    nn.Identity: _identity,
    Append: _append,
    **dict.fromkeys(_DROPOUTS, _dropout),
}


class _Walker:
    """Reads a torch.fx graph node by node, insisting that each takes the one before it."""

    def __init__(self, line: _Line, modules: Mapping[str, nn.Module]) -> None:
        self.line = line
        self.modules = modules
        self.last: fx.Node | None = None
        self.tensors: set[fx.Node] = set()  # every node on the line: all have the batch size of the input
        self.shapes: set[fx.Node] = set()
        self.batch_sizes: set[fx.Node] = set()

    def visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._input(node)
        elif node.op == "output":
            self._output(node)
        elif node.op == "get_attr":
            raise Obstacle(f"forward uses '{node.target}' directly; accepted is {ACCEPTED}")
        elif not self._is_size(node):
            self._step(node)

    def _input(self, node: fx.Node) -> None:
        if self.last is None:
            self._advance(node)
        elif node.users:
            raise Obstacle(f"forward takes a second input '{node.target}'; accepted is one input x")

    def _output(self, node: fx.Node) -> None:
        if node.args[0] is not self.last:
            raise Obstacle(f"forward returns something else than its last layer's output; accepted is {ACCEPTED}")

    def _advance(self, node: fx.Node) -> None:
        self.last = node
        self.tensors.add(node)

    def _is_size(self, node: fx.Node) -> bool:
        """x.size(0), x.shape[0], x.size()[0] and x.shape give the batch size, not a tensor."""
        source = node.args[0] if node.args else None
        if source in self.tensors and _is_shape(node):
            self.shapes.add(node)
        elif (source in self.tensors and node.target == "size") or (
            source in self.shapes and node.target is operator.getitem
        ):
            self._batch_size(node)
        else:
            return False
        return True

    def _batch_size(self, node: fx.Node) -> None:
        if node.args[1] != 0:
            raise Obstacle(f"forward computes with the size of dimension {node.args[1]}; accepted is {ACCEPTED}")
        self.batch_sizes.add(node)

    def _step(self, node: fx.Node) -> None:
        if not node.args or node.args[0] is not self.last:
            raise Obstacle(
                f"'{node.name}' does not take the output of the layer before it alone; accepted is {ACCEPTED}"
            )
        if node.op == "call_module":
            self.line.call(self.modules[str(node.target)], str(node.target))
        else:
            self._function(node)
        self._advance(node)

    def _function(self, node: fx.Node) -> None:
        target, name = node.target, node.name
        if target in _RELU:
            self.line.elementwise(ReLULayer(name))
        elif target in _TANH:
            self.line.elementwise(TanhLayer(name))
        elif target in _MEAN and is_spatial_mean(*node.args[1:], **node.kwargs):  # type: ignore[arg-type]
            self.line.mean(name)
        elif target is F.max_pool2d:
            _max_pool_by(self.line, name, *node.args[1:], **node.kwargs)
        elif target is F.adaptive_avg_pool2d:
            _average_pool_by(self.line, name, *node.args[1:], **node.kwargs)
        elif target in _FLATTEN:
            _flatten_dims(self.line, name, *node.args[1:], **node.kwargs)  # type: ignore[arg-type]
        elif target in _RESHAPE:
            self._reshape(node)
        elif not (target == "contiguous" or (target is F.dropout and _is_off(*node.args[1:], **node.kwargs))):
            called = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            raise Obstacle(f"operation '{called}' is not known; accepted is {ACCEPTED}")

    def _reshape(self, node: fx.Node) -> None:
        sizes = node.args[1] if len(node.args) == 2 else node.args[1:]
        rows, columns = sizes if isinstance(sizes, (tuple, list)) and len(sizes) == 2 else (None, None)
        if rows in self.batch_sizes and isinstance(columns, int):
            self.line.flattened(node.name, None if columns == -1 else columns)
        elif rows == -1 and isinstance(columns, int):
            self.line.flattened(node.name, columns)
        else:
            raise Obstacle(f"'{node.name}' reshapes; accepted is .flatten(1) or .view(x.size(0), -1)")


def _is_shape(node: fx.Node) -> bool:
    if node.target == "size":
        return len(node.args) == 1
    return node.target is getattr and node.args[1] == "shape"


def _is_off(p: Any = 0.5, training: Any = True, inplace: Any = False) -> bool:
    return p == 0 or not training
