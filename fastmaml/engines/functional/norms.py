"""Normalisation written out, for torch.func.

Under vmap, torch's own derivatives of batch_norm, layer_norm and instance_norm take the saved mean and rstd for
constants, so that a gradient of a gradient comes out wrong without a word (seen in torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ExactNorms(TorchFunctionMode):
    """Within this context F.batch_norm, F.layer_norm and F.instance_norm are those of this file."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _EXACT.get(func, func)(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,  # [N, C, ...]
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.batch_norm, except that running statistics are left as they are."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if input.numel() == input.shape[1]:
        raise ValueError(f"batch norm needs more than one value per channel, given input {list(input.shape)}")
    _check_channels(input, weight, bias)
    normal = _standardised(input, [0, *range(2, input.dim())], eps)
    return _affine(normal, weight, bias, (-1,) + (1,) * (input.dim() - 2))


def instance_norm(
    input: Tensor,  # [N, C, ...]
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.instance_norm, except that running statistics are left as they are."""
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    _check_channels(input, weight, bias)
    normal = _standardised(input, list(range(2, input.dim())), eps)
    return _affine(normal, weight, bias, (-1,) + (1,) * (input.dim() - 2))


def layer_norm(
    input: Tensor,  # [..., *normalized_shape]
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """F.layer_norm."""
    normal = _standardised(input, list(range(-len(normalized_shape), 0)), eps)
    return _affine(normal, weight, bias, tuple(normalized_shape))


def _check_channels(input: Tensor, *parameters: Tensor | None) -> None:
    for parameter in parameters:
        if parameter is not None and parameter.numel() != input.shape[1]:
            raise ValueError(f"a norm of {parameter.numel()} channels is given input {list(input.shape)}")


def _standardised(input: Tensor, dims: list[int], eps: float) -> Tensor:
    centred = input - input.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if weight is not None:
        normal = normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)


_EXACT: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
    F.layer_norm: layer_norm,
}
