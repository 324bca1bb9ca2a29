"""The operations that a meta-gradient cannot do without, counted from the Plan.

Per task, with N support and M query samples, K inner steps, and for each linear layer its weights w = in × out, a
product of the layer's input with its weights costs 2·w operations a sample (a multiplication and an addition). In
units of 2·w a sample:

| part                             | first layer | other layers | products                                    |
|----------------------------------|-------------|--------------|---------------------------------------------|
| forward                          | 1           | 1            | x Wᵀ                                        |
| backward                         | 1           | 2            | δᵀ x, δ W                                   |
| tangent of the forward pass      | 1           | 2            | x Ẇᵀ, ẋ Wᵀ                                  |
| tangent of the backward pass     | 1           | 4            | δ̇ᵀ x, δᵀ ẋ, δ̇ W, δ Ẇ                        |

since the first layer's input has no tangent (ẋ = 0) and nobody asks for its gradient (δ W). Each inner step takes
all four on the support set (forward and backward to step, the two tangents for the Hessian-vector product of the
reverse sweep), the query set takes the first two. A forward pass that is taken again is not counted again. Hence

    first layer:   2w (4 K N + 2 M)          other layers:   2w (9 K N + 3 M)

A wide first layer needs less. Its input X stays the same through all steps, and gradients of its weights are δᵀX, so
X Wₖᵀ = X W₀ᵀ − α (X Xₛᵀ) Σ δ: per-step products with w become products with the Gram matrices Xₛ Xₛᵀ and X_q Xₛᵀ, and
the weights themselves are met four times: forward on N and on M samples, and once for the final gradient on each:

    first layer by Gram:   4w (N + M) + in (N (N + 1) + 2 N M) + 4 out (N² (K − 1) + N M)

The smaller of the two counts.

A convolution is a linear layer met once for every output pixel: its w is the sum over output pixels of the taps that
lie within the image (products with the zeros of the padding are not necessary), times channels in and out.

What is linear in the number of units (activations, batch norm, losses, biases) or in
the number of parameters (the steps) is not counted at all, so a share of peak stated in these operations is a lower
bound.
"""

from __future__ import annotations

from fastmaml.plan import Conv2dLayer, LinearLayer, Plan
from fastmaml.plan.layers import sample_shapes


def necessary(
    plan: Plan, tasks: int, support: int, query: int, steps: int, sample: tuple[int, ...] | None = None
) -> int:
    """Floating-point operations of one exact second-order meta-gradient over all tasks.

    Args:
        plan: with layers.
        tasks, support, query: T, N, M.
        steps: K ≥ 1.
        sample: shape of one sample, which plans of images need.
    Raises:
        ValueError: if the plan has no layers, or takes images and `sample` is not given.
    """
    if plan.layers is None:
        raise ValueError(f"plan: operations are counted from its layers, and it has none: {plan.obstacle}")
    if plan.takes_images and sample is None:
        raise ValueError("sample: not given; the operations of a plan that takes images depend on their size")
    weights = _weights(plan, sample or (plan.num_inputs or 0,))
    if not weights:
        return 0
    # A batch norm in front has parameters, so that the input of the first linear layer has a tangent after all.
    first = next(layer for layer in plan.layers if layer.inputs)
    leads = isinstance(first, (LinearLayer, Conv2dLayer))
    total = sum(_hidden(w, support, query, steps) for w in weights[leads:])
    if leads:
        least = _first(weights[0], support, query, steps)
        if isinstance(first, LinearLayer):
            least = min(least, _first_by_gram(first, support, query, steps))
        total += least
    return tasks * total


def _weights(plan: Plan, sample: tuple[int, ...]) -> list[int]:
    """Multiply-adds a sample of each linear layer and convolution."""
    shapes = sample_shapes(plan.layers or (), sample)
    weights = []
    for layer, before, after in zip(plan.layers or (), shapes, shapes[1:], strict=False):
        if isinstance(layer, LinearLayer):
            weights.append(layer.inputs * layer.outputs)
        elif isinstance(layer, Conv2dLayer):
            windows = zip(layer.kernel, layer.stride, layer.padding, before[1:], after[1:], strict=True)
            down, across = (taps_inside(*window) for window in windows)
            weights.append(down * across * layer.inputs * layer.outputs)
    return weights


def taps_inside(kernel: int, stride: int, padding: int, size: int, outputs: int) -> int:
    """Along one axis, over all output pixels: the taps that meet a pixel of the image and not its padding."""
    starts = [at * stride - padding for at in range(outputs)]
    return sum(min(start + kernel, size) - max(start, 0) for start in starts)


def _first(weights: int, n: int, m: int, k: int) -> int:
    return 2 * weights * (4 * k * n + 2 * m)


def _hidden(weights: int, n: int, m: int, k: int) -> int:
    return 2 * weights * (9 * k * n + 3 * m)


def _first_by_gram(layer: LinearLayer, n: int, m: int, k: int) -> int:
    weights = 4 * layer.inputs * layer.outputs * (n + m)
    grams = layer.inputs * (n * (n + 1) + 2 * n * m)
    return weights + grams + 4 * layer.outputs * (n * n * (k - 1) + n * m)
