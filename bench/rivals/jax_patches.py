"""JAX with convolutions written as matrix products of patches, which vmap turns into batched products.

Under vmap, weights of each task make lax.conv a grouped convolution, for which XLA has no fast code on CPUs.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from bench.problem import Problem
from bench.rivals import Step, jax_jit
from fastmaml.plan.layers import Conv2dLayer


def prepare(problem: Problem) -> Step:
    return jax_jit.prepare(problem, convolution)


def convolution(x: Array, weight: Array, layer: Conv2dLayer) -> Array:
    """[N, in, y, x] and [out, in, ky, kx] give [N, out, y, x]."""
    x = jnp.pad(x, [(0, 0), (0, 0), *((pad, pad) for pad in layer.padding)]).transpose(0, 2, 3, 1)
    size = [(x.shape[1 + i] - layer.kernel[i]) // layer.stride[i] + 1 for i in (0, 1)]
    taps = [_tap(x, ky, kx, size, layer.stride) for ky in range(layer.kernel[0]) for kx in range(layer.kernel[1])]
    patches = jnp.concatenate(taps, axis=-1)  # [N, y, x, taps · in]
    columns = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
    y = patches.reshape(-1, patches.shape[-1]) @ columns  # one product: the quickest of the ways tried here
    return y.reshape(*patches.shape[:3], -1).transpose(0, 3, 1, 2)


def _tap(x: Array, ky: int, kx: int, size: list[int], stride: tuple[int, int]) -> Array:
    """What one tap of the window meets, for every output pixel: [N, y, x, in]."""
    rows, columns = (slice(k, k + (n - 1) * s + 1, s) for k, n, s in zip((ky, kx), size, stride, strict=True))
    return x[:, rows, columns]
