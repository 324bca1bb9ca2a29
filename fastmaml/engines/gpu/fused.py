"""A Plan as the blocks of the Triton kernels."""

from __future__ import annotations

from fastmaml.kernels.mlp_network import MAX_OUTPUTS, Block
from fastmaml.plan import AppendLayer, BatchNormLayer, FlattenLayer, Layer, LinearLayer, Plan, PointwiseLayer


def blocks_of(plan: Plan) -> tuple[Block, ...] | str:
    """The plan as blocks Linear (BatchNorm) (activation), or why it is no line of such blocks."""
    offsets: dict[int, int | None] = {-1: None}
    offsets |= {index: slot.offset for index, slot in enumerate(plan.slots)}
    if plan.takes_images:
        return "it takes images"
    blocks: list[Block] = []
    layers: list[Layer] = [layer for layer in plan.layers or () if not isinstance(layer, FlattenLayer)]
    while layers:
        block = _next_block(layers, offsets)
        if isinstance(block, str):
            return block
        blocks.append(block)
    if not blocks:
        return "the network has no layer with parameters"
    if blocks[-1].outputs > MAX_OUTPUTS:
        return f"the network has {blocks[-1].outputs} outputs, and its losses take at most {MAX_OUTPUTS}"
    return tuple(blocks)


def _next_block(layers: list[Layer], offsets: dict[int, int | None]) -> Block | str:
    """Takes the layers of one block off the front."""
    linear = layers.pop(0)
    if not isinstance(linear, LinearLayer):
        return (
            f"layer '{linear.name}' ({type(linear).__name__.removesuffix('Layer')}) does not follow a linear layer; "
            "it takes Linear, then at most one BatchNorm1d, then at most one ReLU or Tanh"
        )
    norm = layers.pop(0) if layers and isinstance(layers[0], BatchNormLayer) else None
    unit = layers.pop(0) if layers and isinstance(layers[0], PointwiseLayer) else None
    activation = "none" if unit is None else unit.kind
    weight = offsets[linear.weight]
    assert weight is not None
    if layers and isinstance(layers[0], AppendLayer):
        extra = layers.pop(0)
        append = offsets[extra.bias]
        assert append is not None
        appended = extra.outputs - linear.outputs
        return Block(
            linear.inputs, extra.outputs, weight, offsets[linear.bias], activation=activation, appended=appended,
            append=append,
        )  # fmt: skip
    block = Block(linear.inputs, linear.outputs, weight, offsets[linear.bias], activation=activation)
    if not isinstance(norm, BatchNormLayer):
        return block
    places = {"scale": offsets[norm.weight], "shift": offsets[norm.bias]}
    return Block(**{**vars(block), **places, "norm": True, "eps": norm.constants[0]})
