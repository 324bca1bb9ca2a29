"""A Plan as the compiled core takes it: a tuple for each layer, and the geometry of those on images."""

from __future__ import annotations

from fastmaml import _core
from fastmaml.plan import Plan
from fastmaml.plan.layers import Layer, Shape, sample_shapes


def core_model(plan: Plan, sample: Shape | None) -> _core.Model:
    """The model of the plan's layers.

    Args:
        sample: [channels, H, W] of one sample where the plan takes images, else None.
    """
    shapes = sample_shapes(plan.layers or (), (plan.num_inputs or 0,) if sample is None else sample)
    offsets = [*(slot.offset for slot in plan.slots), -1]  # -1, no slot, finds the last
    passed = list(zip(plan.layers or (), shapes, shapes[1:], strict=False))
    passed = [(layer, before, after) for layer, before, after in passed if layer.kind != "flatten"]
    tuples = [
        (layer.kind, before[0], after[0], offsets[layer.weight], offsets[layer.bias], next(iter(layer.constants), 0.0))
        for layer, before, after in passed
    ]
    return _core.Model(tuples, plan.loss_name, plan.sizes, [_geometry(*each) for each in passed])


def _geometry(layer: Layer, before: Shape, after: Shape) -> list[int]:
    """Size in, size out, kernel, stride and padding, each y then x; nothing of a layer on rows."""
    if len(before) != 3:
        return []
    return [*before[1:], *(after[1:] or (1, 1)), *layer.kernel, *layer.stride, *layer.padding]
