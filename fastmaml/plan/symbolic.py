"""A module's forward pass as a torch.fx graph, traced without a change to anything that others can see.

torch.fx's own tracer replaces `nn.Module.__call__` and `__getattr__` for the whole process while it runs, so that a
network that another thread runs meanwhile fails, and two tracers at once may leave them replaced for good. Here the
forward pass runs on a copy of the module, whose leaves write themselves into the graph where they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.proxy import GraphAppendingTracer


def symbolic_trace(module: nn.Module, is_leaf: Callable[[nn.Module], bool]) -> fx.Graph:
    """The graph of module(x): one node for each leaf that is called, and for each operation on tensors.

    Args:
        module: traced in its present mode; it is not changed.
        is_leaf: which children stand in the graph as themselves; the forward pass of others is followed.
    Raises:
        Exception: whatever the forward pass raises if it is given no tensor but a promise of one.
    """
    tracer = _Tracer(fx.Graph())
    copied = _Copies(tracer, is_leaf).of(module, "")
    tracer.graph.output(tracer.create_arg(copied(tracer.create_proxy("placeholder", "x", (), {}))))
    return tracer.graph


class _Tracer(GraphAppendingTracer):
    """Parameters and buffers that operations take become nodes that name them."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__(graph)
        self._named: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is given to another

    def name(self, tensor: Tensor | None, name: str) -> None:
        if tensor is not None:
            self._named.setdefault(id(tensor), (name, tensor))

    def create_arg(self, a: Any) -> Any:
        known = self._named.get(id(a))
        return super().create_arg(a) if known is None else self.create_node("get_attr", known[0], (), {})


class _Copies:
    """Copies of modules that share parameters and settings with them; each made once, whoever has it as a child."""

    def __init__(self, tracer: _Tracer, is_leaf: Callable[[nn.Module], bool]) -> None:
        self._tracer, self._is_leaf = tracer, is_leaf
        self._made: dict[int, nn.Module] = {}

    def of(self, module: nn.Module, path: str) -> nn.Module:
        made = self._made.get(id(module))
        if made is None:
            made = self._made[id(module)] = object.__new__(type(module))
            self._fill(made, module, path)
        return made

    def _fill(self, made: nn.Module, module: nn.Module, path: str) -> None:
        prefix = f"{path}." if path else ""
        children = {
            key: None if child is None else self.of(child, prefix + key) for key, child in module._modules.items()
        }
        buffers = {key: None if held is None else held.clone() for key, held in module._buffers.items()}
        for key, tensor in (*module._parameters.items(), *buffers.items()):
            self._tracer.name(tensor, prefix + key)
        made.__dict__.update(module.__dict__)
        made.__dict__.update(_modules=children, _buffers=buffers, _parameters=dict(module._parameters))
        made.__dict__["_compiled_call_impl"] = None  # a compiled forward pass takes no promises
        if path and self._is_leaf(module):
            made.__dict__["forward"] = self._node_of(path)

    def _node_of(self, path: str) -> Callable[..., fx.Proxy]:
        return lambda *args, **kwargs: self._tracer.create_proxy("call_module", path, args, kwargs)
