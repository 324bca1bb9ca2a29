"""A network as layers with shapes, and the place of each parameter in one flat vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors  # torch.cat of reshape(-1) in one call, at half the time
from torch.nn.parameter import UninitializedParameter

from fastmaml import losses
from fastmaml.plan.layers import FlattenLayer, Layer, sample_shapes
from fastmaml.plan.statistics import uses_statistics, without_statistics


@dataclass(frozen=True)
class ParameterSlot:
    """One parameter's place, [offset, offset + numel), in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int
    numel: int
    adapted: bool
    meta_learned: bool


@dataclass(frozen=True, eq=False)
class InnerLr:
    """The inner step size of every element of the flat vector.

    Args:
        values: [P], zero where a parameter is not adapted.
        uniform: whether it is one value for each parameter tensor.
        learned: whether its gradient is wanted.
    """

    values: Tensor
    uniform: bool = True
    learned: bool = False


@dataclass(frozen=True, eq=False)
class Plan:
    """What an engine needs to know of a network: its parameters' slots, its loss and, if it is simple, its layers.

    Args:
        module: the network, which only the reference and functional engines call; a copy that shares its tensors if
            norms in eval mode are to take statistics of the batch at hand.
        slots: one of each parameter, in the order of module.named_parameters().
        loss_name: a name in `fastmaml.losses.NAMED`; None for any other callable.
        loss_fn: loss(outputs [N, ...], targets [N, ...], weights [N] | None) -> scalar.
        layers: the straight line of layers that the module is in its present mode, or None.
        obstacle: why there are no layers, naming the layer; None where there are.
    """

    module: nn.Module
    slots: tuple[ParameterSlot, ...]
    loss_name: str | None
    loss_fn: losses.LossFn
    layers: tuple[Layer, ...] | None
    obstacle: str | None = field(default=None)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        loss: str | Callable[..., Tensor] = "mse",
        adapted: Iterable[str] | None = None,
        meta_learned: Iterable[str] | None = None,
        batch_norm: str = "batch",
    ) -> Plan:
        """Plans `module` in its present mode (train or eval).

        Args:
            loss: a name or a callable, see `fastmaml.losses.resolve`.
            adapted, meta_learned: fnmatch patterns on parameter names; None takes every parameter.
                One with requires_grad=False is neither, whatever the patterns say.
            batch_norm: "batch" or "running": what norms in eval mode normalise by, if they have running statistics.
        Raises:
            TypeError: where `module` is no nn.Module. ValueError: where it has no parameters, or not yet
            initialised ones, or a pattern matches none.
        """
        slots = _slots(module, _patterns("adapted", adapted), _patterns("meta_learned", meta_learned))
        name, function = losses.resolve(loss)
        if batch_norm == "batch":
            module = without_statistics(module, uses_statistics)
        layers, obstacle = _layers(module)
        return cls(module, slots, name, function, layers, obstacle)

    @cached_property
    def num_parameters(self) -> int:
        """P, the length of the flat vector."""
        return sum(slot.numel for slot in self.slots)

    @cached_property
    def sizes(self) -> list[int]:
        return [slot.numel for slot in self.slots]

    @cached_property
    def num_inputs(self) -> int | None:
        """Features of one sample, flattened; None without layers, and of images, whose size no layer need fix."""
        if self.takes_images:
            return None
        return next((layer.inputs for layer in self.layers or () if layer.inputs), None)

    @cached_property
    def num_outputs(self) -> int | None:
        """Outputs of one sample; None without layers."""
        last = next((layer for layer in reversed(self.layers or ()) if layer.inputs), None)
        return None if last is None else last.outputs or last.inputs

    @cached_property
    def takes_images(self) -> bool:
        """Whether the layers take samples [channels, H, W]."""
        return any(layer.on_images for layer in self.layers or ())

    @cached_property
    def has_batch_norm(self) -> bool:
        """Whether samples of a task act on each other through batch statistics."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.module.modules())

    @cached_property
    def flattens(self) -> bool:
        """Whether samples of any shape are flattened first."""
        return isinstance((self.layers or (None,))[0], FlattenLayer)

    def shape_obstacle(self, sample_shape: tuple[int, ...]) -> str | None:
        """Why the layers cannot take samples of this shape (x is [T, N, *sample_shape]); None where they can."""
        if self.layers is None:
            return self.obstacle
        if self.takes_images:
            return self._image_obstacle(tuple(sample_shape))
        if self.flattens:
            fits = len(sample_shape) > 0 and math.prod(sample_shape) == self.num_inputs
        else:
            fits = tuple(sample_shape) == (self.num_inputs,)
        if fits:
            return None
        return f"samples have shape {list(sample_shape)}; the layers accept [{self.num_inputs}]"

    def _image_obstacle(self, sample_shape: tuple[int, ...]) -> str | None:
        try:
            sample_shapes(self.layers or (), sample_shape)
        except ValueError as error:
            return f"samples have shape {list(sample_shape)}; {error}"
        return None

    def flatten(self, parameters: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
        """Named tensors, or tensors in the order of the slots, as one vector [P]."""
        if not isinstance(parameters, list):  # which is how a meta-step comes, in a hurry
            parameters = self._in_order(parameters)
        flat: Tensor = _flatten_dense_tensors(parameters)
        return flat

    def _in_order(self, parameters: Mapping[str, Tensor] | Iterable[Tensor]) -> list[Tensor]:
        if isinstance(parameters, Mapping):
            return [parameters[slot.name] for slot in self.slots]
        return list(parameters)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """[P] or [T, P] as named views [*shape] or [T, *shape]."""
        batch = flat.shape[:-1]
        pieces = flat.split(self.sizes, -1)
        return {slot.name: piece.reshape(batch + slot.shape) for slot, piece in zip(self.slots, pieces, strict=True)}

    def only_meta_learned(self, gradient: Tensor) -> Tensor:
        """The gradient [P] with zeros where a parameter is not meta-learned."""
        if self._all_meta_learned:
            return gradient
        kept = torch.tensor([slot.meta_learned for slot in self.slots], device=gradient.device)
        sizes = torch.tensor(self.sizes, device=gradient.device)
        return torch.where(kept.repeat_interleave(sizes), gradient, 0)

    @cached_property
    def _all_meta_learned(self) -> bool:
        return all(slot.meta_learned for slot in self.slots)


def _patterns(argument: str, patterns: Iterable[str] | None) -> tuple[str, ...] | None:
    if patterns is None:
        return None
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{argument}: given {patterns!r}; allowed are fnmatch patterns on parameter names, as strings")
    return patterns


def matching(argument: str, patterns: Iterable[str], names: list[str]) -> set[str]:
    """The names that match any of the patterns; ValueError for a pattern that matches none."""
    found: set[str] = set()
    for pattern in patterns:
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            raise ValueError(f"{argument}: pattern {pattern!r} matches no parameter; the parameters are {names}")
        found |= matches
    return found


def _slots(
    module: nn.Module, adapted: tuple[str, ...] | None, meta_learned: tuple[str, ...] | None
) -> tuple[ParameterSlot, ...]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"model: given {type(module).__name__}; allowed is a torch.nn.Module")
    named = dict(module.named_parameters())
    if not named:
        raise ValueError(f"model: given {type(module).__name__}, which has no parameters; there is nothing to learn")
    for name, parameter in named.items():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"model: parameter '{name}' has no shape yet; call the model once on an input first")
    names = list(named)
    adapting = set(names) if adapted is None else matching("adapted", adapted, names)
    learning = set(names) if meta_learned is None else matching("meta_learned", meta_learned, names)
    slots, offset = [], 0
    for name, parameter in named.items():
        free, size = parameter.requires_grad, parameter.numel()
        shape = tuple(parameter.shape)
        slots.append(ParameterSlot(name, shape, offset, size, free and name in adapting, free and name in learning))
        offset += size
    return tuple(slots)


def _layers(module: nn.Module) -> tuple[tuple[Layer, ...] | None, str | None]:
    from fastmaml.plan.trace import Obstacle, trace  # which imports this package's layers, and torch.fx

    slots = {id(parameter): index for index, parameter in enumerate(module.parameters())}
    try:
        return trace(module, slots), None
    except Obstacle as obstacle:
        return None, str(obstacle)
