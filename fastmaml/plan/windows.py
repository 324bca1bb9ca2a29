"""Which convolutions and poolings the layers of a Plan can say, and why not the others."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastmaml.plan.layers import Pair
from fastmaml.plan.obstacle import Obstacle

MOST_TAPS = 15 * 15


def conv_window(module: nn.Conv2d, name: str) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding, each (y, x).

    Raises:
        Obstacle: groups, dilation, other padding than zeros, or a window out of the range that engines take.
    """
    for argument, given, accepted in (
        ("groups", module.groups, 1),
        ("dilation", _pair(module.dilation), (1, 1)),
        ("padding_mode", module.padding_mode, "zeros"),
    ):
        if given != accepted:
            raise Obstacle(f"layer '{name}' (Conv2d) has {argument}={given!r}; accepted is {accepted!r}")
    height, width = module.weight.shape[2:]  # which alone torch asks
    kernel, stride = (height, width), _pair(module.stride)
    return _checked(f"layer '{name}' (Conv2d)", kernel, stride, _conv_padding(module, name, kernel))


def _conv_padding(module: nn.Conv2d, name: str, kernel: Pair) -> Pair:
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise Obstacle(f"layer '{name}' (Conv2d) pads an even kernel {kernel} to the same size; give an odd one")
        return (kernel[0] // 2, kernel[1] // 2)
    return _pair(module.padding)


def pool_window(
    name: str,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding of a max-pooling, each (y, x); the arguments are those of F.max_pool2d.

    Raises:
        Obstacle: dilation, ceil_mode, return_indices, or a window out of the range that engines take.
    """
    for argument, given, accepted in (
        ("dilation", _pair(dilation), (1, 1)),
        ("ceil_mode", ceil_mode, False),
        ("return_indices", return_indices, False),
    ):
        if given != accepted:
            raise Obstacle(f"layer '{name}' (MaxPool2d) has {argument}={given!r}; accepted is {accepted!r}")
    kernel = _pair(kernel_size)
    return _checked(f"layer '{name}' (MaxPool2d)", kernel, kernel if not stride else _pair(stride), _pair(padding))


def is_spatial_mean(dim: Any = None, keepdim: bool = False, *rest: Any, **named: Any) -> bool:
    """Whether mean(dim, keepdim) of [N, C, H, W] is that over all pixels, as [N, C]."""
    return not (keepdim or rest or named) and isinstance(dim, (tuple, list)) and {d % 4 for d in dim} == {2, 3}


def _checked(layer: str, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Pair, Pair, Pair]:
    if kernel[0] * kernel[1] > MOST_TAPS:
        raise Obstacle(f"{layer} has a kernel of {kernel[0]}×{kernel[1]}; accepted are at most {MOST_TAPS} taps")
    if padding[0] >= kernel[0] or padding[1] >= kernel[1]:
        raise Obstacle(f"{layer} pads {padding} around a kernel of {kernel}; accepted is less than the kernel")
    return kernel, stride, padding


def _pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)
