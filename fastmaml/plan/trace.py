"""nn.Module -> the straight line of layers that it is, or the reason why it is none."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules import module as nn_module
from torch.nn.utils import parametrize

from fastmaml.models import Append
from fastmaml.plan import pointwise
from fastmaml.plan.layers import Layer
from fastmaml.plan.line import ACCEPTED, Line
from fastmaml.plan.modules import read
from fastmaml.plan.obstacle import Obstacle
from fastmaml.plan.symbolic import symbolic_trace
from fastmaml.plan.windows import is_spatial_mean

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{kind}" for kind in _HOOKS)
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
    line = Line(slots)
    if _is_leaf(module):
        read(line, module, "model")
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


def _walk(module: nn.Module, line: Line) -> None:
    try:
        graph = symbolic_trace(module, _is_leaf)
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        reason = str(error).split("\n", 1)[0]
        raise Obstacle(f"torch.fx cannot trace {type(module).__name__} ({reason}); accepted is {ACCEPTED}") from error
    walker = _Walker(line, dict(module.named_modules()))
    for node in graph.nodes:
        walker.visit(node)


class _Walker:
    """Reads a torch.fx graph node by node, insisting that each takes the one before it."""

    def __init__(self, line: Line, modules: Mapping[str, nn.Module]) -> None:
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
            read(self.line, self.modules[str(node.target)], str(node.target))
        else:
            self._function(node)
        self._advance(node)

    def _function(self, node: fx.Node) -> None:
        target, name = node.target, node.name
        layer = pointwise.of_call(target, name, *node.args[1:], **node.kwargs)
        if layer is not None:
            self.line.pointwise(layer)
        elif target in _MEAN and is_spatial_mean(*node.args[1:], **node.kwargs):  # type: ignore[arg-type]
            self.line.mean(name)
        elif target is F.max_pool2d:
            self.line.max_pool(name, *node.args[1:], **node.kwargs)
        elif target is F.adaptive_avg_pool2d:
            self.line.average_pool(name, *node.args[1:], **node.kwargs)
        elif target in _FLATTEN:
            self.line.flatten_dims(name, *node.args[1:], **node.kwargs)  # type: ignore[arg-type]
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
