"""JAX: jit of value_and_grad of the mean over vmap of an inner loop of grad, with JAX's own threads.

Convolutions are lax.conv_general_dilated, as JAX users write them; jax_patches.py has the other way.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from torch import Tensor

from bench.problem import Problem
from bench.rivals import Step
from fastmaml.plan import (
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    LinearLayer,
    MaxPoolLayer,
    Plan,
    SpatialMeanLayer,
)

Parameters = list[Array]  # in the order of the plan's slots
Convolution = Callable[[Array, Array, Conv2dLayer], Array]  # [N, in, y, x], [out, in, k, k] -> [N, out, y, x]


def convolution(x: Array, weight: Array, layer: Conv2dLayer) -> Array:
    padding = [(pad, pad) for pad in layer.padding]
    y: Array = jax.lax.conv_general_dilated(x, weight, layer.stride, padding)
    return y


def prepare(problem: Problem, convolve: Convolution = convolution) -> Step:
    plan, lr = problem.plan, problem.lr
    loss_of = {"mse": _mse, "cross_entropy": _cross_entropy}[problem.loss]
    batch = [_array(t) for samples in (problem.batch.support, problem.batch.query) for t in (samples.x, samples.y)]
    parameters = [_array(parameter) for parameter in problem.network.parameters()]

    def loss(parameters: Parameters, x: Array, y: Array) -> Array:
        return loss_of(_forward(plan, parameters, x, convolve), y)

    def query_loss(parameters: Parameters, sx: Array, sy: Array, qx: Array, qy: Array) -> Array:
        for _ in range(problem.steps):
            gradients = jax.grad(loss)(parameters, sx, sy)
            parameters = [value - lr * gradient for value, gradient in zip(parameters, gradients, strict=True)]
        return loss(parameters, qx, qy)

    def mean_query_loss(parameters: Parameters, *batch: Array) -> Array:
        return jax.vmap(query_loss, in_axes=(None, 0, 0, 0, 0))(parameters, *batch).mean()

    compiled = jax.jit(jax.value_and_grad(mean_query_loss))

    def step() -> tuple[Array, list[Array]]:
        answer: tuple[Array, list[Array]] = jax.block_until_ready(compiled(parameters, *batch))
        return answer

    return step


def _array(tensor: Tensor) -> Array:
    return jnp.asarray(tensor.detach().cpu().numpy())


def _forward(plan: Plan, parameters: Parameters, x: Array, convolve: Convolution) -> Array:
    for layer in plan.layers or ():
        if isinstance(layer, FlattenLayer):
            x = x.reshape(x.shape[0], -1)
        elif isinstance(layer, LinearLayer):
            x = x @ parameters[layer.weight].T
            x = x if layer.bias < 0 else x + parameters[layer.bias]
        elif isinstance(layer, BatchNormLayer):
            axes = (0, *range(2, x.ndim))
            x = (x - x.mean(axes, keepdims=True)) * jax.lax.rsqrt(x.var(axes, keepdims=True) + layer.constants[0])
            x = x if layer.weight < 0 else x * _by_channel(parameters[layer.weight], x)
            x = x if layer.bias < 0 else x + _by_channel(parameters[layer.bias], x)
        elif isinstance(layer, Conv2dLayer):
            x = convolve(x, parameters[layer.weight], layer)
            x = x if layer.bias < 0 else x + _by_channel(parameters[layer.bias], x)
        elif isinstance(layer, MaxPoolLayer):
            window, stride = (1, 1, *layer.kernel), (1, 1, *layer.stride)
            padding = [(0, 0), (0, 0), *((pad, pad) for pad in layer.padding)]
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, stride, padding)
        elif isinstance(layer, SpatialMeanLayer):
            x = x.mean(axis=(2, 3))
        else:
            x = getattr(jax.nn, layer.kind)(x, *layer.constants)
    return x


def _by_channel(values: Array, x: Array) -> Array:
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def _mse(outputs: Array, targets: Array) -> Array:
    return ((outputs - targets) ** 2).mean()


def _cross_entropy(outputs: Array, labels: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1).mean()
